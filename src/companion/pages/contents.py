"""The notebooks: what each one found, which is its title, and how long it takes to read."""

from pathlib import Path

import nbformat
from nbformat import NotebookNode

WORDS_A_MINUTE = 120  # of text with formulas; tables and code are not counted
SHORT_PATH = ("00", "02", "06", "10")


def minutes(notebook: NotebookNode) -> int:
    """How long the text takes to read at `WORDS_A_MINUTE`, rounded up to five minutes."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    words = sum(len(line.split()) for line in text.splitlines() if not line.startswith("|"))
    return 5 * -(-words // (5 * WORDS_A_MINUTE))


def table(notebooks: Path) -> str:
    """Markdown, one row a notebook of the folder `notebooks`, which the page is in. The short path is bold."""
    lines = ["| notebook | what it shows | minutes |", "|---|---|---|"]
    for path in _paths(notebooks):
        notebook = nbformat.read(path, as_version=4)
        title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
        lines.append(f"| {_link(path, '')} | {title} | {minutes(notebook)} |")
    return "\n".join(lines)


def line(notebooks: Path, links: str) -> str:
    """Markdown, one line of all notebooks with their minutes; `links` leads to their folder. The short path is bold."""
    return " · ".join(
        f"{_link(path, links)} ({minutes(nbformat.read(path, as_version=4))})" for path in _paths(notebooks)
    )


def _paths(notebooks: Path) -> list[Path]:
    return sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))


def _link(path: Path, links: str) -> str:
    link = f"[{path.stem[:2]} {path.stem[3:].replace('_', ' ')}]({links}{path.name})"
    return f"**{link}**" if path.stem[:2] in SHORT_PATH else link
