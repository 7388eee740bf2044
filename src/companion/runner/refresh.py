"""Executed notebooks become the committed ones, free of traces of the run; figures become the pages' pictures."""

import re
import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from companion.files import write_atomically
from companion.runner.checks import NotebookProblem, read_executed, read_notebook
from companion.runner.receipts import Settings, read_receipt, run_key


def refresh_committed(paths: list[Path], settings: Settings, *, partial: bool = False) -> None:
    """Overwrite the committed notebooks, and the pictures of README and docs/, with what the last run made.

    After a `partial` run, of some notebooks only, pictures that were not made may stay as they are.

    Raises:
        NotebookProblem: a notebook was edited while it ran, or a page shows a picture that no notebook made.
    """
    root = settings.notebooks.resolve().parent
    pages = [page for page in (root / "README.md", *sorted(root.glob("docs/*.md"))) if page.is_file()]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    shown = re.findall(r"\((?:\.\./)?notebooks/figures/([\w.-]+\.png)\)", text)
    pictures = settings.notebooks / "figures"
    made = [name for name in shown if (settings.build / "figures" / name).is_file()]
    kept = [name for name in shown if partial and (pictures / name).is_file()]
    if missing := sorted(set(shown) - {*made, *kept}):
        raise NotebookProblem("README or docs/", f"shows {', '.join(missing)}, which no notebook has made")
    for path in paths:
        if run_key(read_notebook(path, {}), settings) != read_receipt(path.stem, settings)["key"]:
            raise NotebookProblem(path.stem, "was edited while it ran; run --refresh again")
    for path in paths:
        write_atomically(
            path, nbformat.writes(_without_traces(read_executed(settings.build / "notebooks" / path.name))) + "\n"
        )
    for name in made:
        pictures.mkdir(exist_ok=True)
        shutil.copyfile(settings.build / "figures" / name, pictures / name)


def _without_traces(notebook: NotebookNode) -> NotebookNode:
    """Only the tags of the metadata stay, and cells are counted without those that papermill added."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    count = 0
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code" and cell.source.strip():
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    return notebook
