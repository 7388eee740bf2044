"""The notebooks as a table: what each one found, which is its title, and how long it takes to read."""

from collections.abc import Collection
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


def table(notebooks: Path, links: str = "", *, only: Collection[str] = ()) -> str:
    """Markdown, one row a notebook of the folder `notebooks`; `links` leads to that folder. The short path is bold.

    Args:
        only: numbers of the notebooks that are wanted, by default all.
    """
    lines = ["| notebook | what it shows | minutes |", "|---|---|---|"]
    for path in _paths(notebooks):
        if only and path.stem[:2] not in only:
            continue
        notebook = nbformat.read(path, as_version=4)
        title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
        link = f"**{_link(path, links)}**" if path.stem[:2] in SHORT_PATH else _link(path, links)
        lines.append(f"| {link} | {title} | {minutes(notebook)} |")
    return "\n".join(lines)


def off_the_short_path(notebooks: Path, links: str = "") -> str:
    """The other notebooks in one line, each with its minutes."""
    paths = [path for path in _paths(notebooks) if path.stem[:2] not in SHORT_PATH]
    return " · ".join(f"{_link(path, links)} ({minutes(nbformat.read(path, as_version=4))})" for path in paths)


def _paths(notebooks: Path) -> list[Path]:
    return sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))


def _link(path: Path, links: str) -> str:
    return f"[{path.stem[:2]} {path.stem[3:].replace('_', ' ')}]({links}{path.name})"
