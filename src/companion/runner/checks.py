"""What makes a notebook runnable, and what makes its run good: papermill alone vouches for neither."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbformat import NotebookNode

from companion.notebooks.claims import CLAIMS, verdicts

FIGURE_FILES = (".png", ".pdf", ".csv", ".json")
ADDED_BY_PAPERMILL = {"injected-parameters", "papermill-error-cell-tag"}


@dataclass
class NotebookProblem(Exception):
    """Why a notebook cannot be run or its run is not good, and at which cell."""

    notebook: str
    problem: str
    cell: int | None = None
    source: str = ""

    def __str__(self) -> str:
        first_line = next((line for line in self.source.splitlines() if line.strip()), "")
        where = "" if self.cell is None else f", cell {self.cell} ({first_line[:60]})"
        return f"{self.notebook}{where}: {self.problem}"


def read_notebook(path: Path, parameters: Mapping[str, Any]) -> NotebookNode:
    """The notebook at `path`, if it is readable and knows `parameters` and output_dir; else NotebookProblem."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:
        raise NotebookProblem(path.stem, f"is not a readable notebook ({type(error).__name__}: {error})") from error
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != "python3":
        raise NotebookProblem(path.stem, f"names the kernel {kernel!r}, expected 'python3'")
    tagged = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise NotebookProblem(path.stem, f"has {len(tagged)} cells tagged 'parameters', expected 1")
    known = default_parameters(path)
    if unknown := [name for name in (*parameters, "output_dir") if name not in known]:
        problem = f"unknown parameter {', '.join(map(repr, unknown))}; this notebook knows {', '.join(known)}"
        raise NotebookProblem(path.stem, problem, tagged[0], notebook.cells[tagged[0]].source)
    return notebook


def read_executed(path: Path, *, ended_by: str | None = None) -> NotebookNode:
    """The notebook that papermill wrote to `path`, without the cells that papermill added: indices are the source's."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # killed before its first write or in the middle of one, or the disk is full
        unreadable = f"left no readable notebook ({type(error).__name__}: {error})"
        raise NotebookProblem(path.stem, ended_by or unreadable) from error
    notebook.cells = [cell for cell in notebook.cells if not ADDED_BY_PAPERMILL & set(cell.metadata.get("tags", []))]
    return notebook


def default_parameters(path: Path) -> dict[str, str]:
    """Name and default, as source text, of each parameter of the notebook."""
    return {name: entry["default"] for name, entry in papermill.inspect_notebook(str(path)).items()}


def declared_artifacts(notebook: NotebookNode) -> dict[str, int]:
    """File name -> index of the cell that declares it, by a tag figure:NAME or artifact:FILE."""
    figures = {name + end: index for name, index in tagged(notebook, "figure:").items() for end in FIGURE_FILES}
    return figures | tagged(notebook, "artifact:")


def tagged(notebook: NotebookNode, prefix: str) -> dict[str, int]:
    """The rest of each tag that begins with `prefix` -> index of its cell."""
    return {
        tag.removeprefix(prefix): index
        for index, cell in enumerate(notebook.cells)
        for tag in cell.metadata.get("tags", [])
        if tag.startswith(prefix)
    }


def check_run(notebook: NotebookNode, stem: str, artifacts: Path, *, ended_by: str | None) -> None:
    """Raise NotebookProblem unless every cell ran, nothing failed, and all artifacts and verdicts are there.

    Args:
        notebook: from `read_executed`.
        artifacts: the folder that the notebook wrote to.
        ended_by: what ended the run before its last cell, if anything did.
    """

    def problem(index: int | None, text: str) -> NotebookProblem:
        return NotebookProblem(stem, text, index, "" if index is None else notebook.cells[index].source)

    code = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source.strip()]
    for index, cell in code:
        for output in cell.outputs:
            if output.output_type == "error":
                raise problem(index, f"{output.ename}: {output.evalue}")
    if ended_by:
        started = [i for i, cell in code if cell.metadata.get("papermill", {}).get("start_time")]
        raise problem(started[-1] if started else None, ended_by)
    for index, cell in code:
        # papermill marks the cells of a dead kernel as completed; only an executed cell has a count
        if cell.execution_count is None or cell.metadata.get("papermill", {}).get("exception"):
            raise problem(index, "was not executed")
    for name, index in declared_artifacts(notebook).items():
        file = artifacts / name
        if not file.is_file() or not file.stat().st_size:
            raise problem(index, f"did not write {name}")
        if name.endswith(".json"):
            try:
                json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise problem(index, f"wrote an unreadable {name} ({error})") from error
    reached = set()
    for verdict in verdicts(notebook):
        if not verdict.holds:
            raise problem(verdict.cell, f"claim {verdict.claim} fails: {verdict.line}")
        if verdict.claim in reached or verdict.claim not in CLAIMS or CLAIMS[verdict.claim].notebook != stem:
            raise problem(verdict.cell, f"a second verdict, or one on another notebook's claim: {verdict.claim}")
        reached.add(verdict.claim)
    for claim in CLAIMS.values():
        if claim.notebook == stem and claim.id not in reached:
            cell = next((i for i, cell in code if claim.id in cell.source), None)
            raise problem(cell, f"reached no verdict on claim {claim.id}")
