"""Decide one claim: run its notebook up to the cell that decides it, and print the evidence."""

import argparse
import asyncio
import difflib
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from companion.notebooks.claims import CLAIMS, Claim, verdicts
from companion.runner.checks import NotebookProblem, read_executed
from companion.runner.execute import execute


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 0 if the claim holds and 1 if not. An unknown id exits with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m companion.runner.claim",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("id", help="of the claim, such as lens-sgd; docs/claims.md lists them")
    parser.add_argument("--notebooks", type=Path, default=Path("notebooks"), help="folder of the notebooks")
    parser.add_argument("--build", type=Path, default=Path("build/claims"), help="folder for what is run")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds of wall clock")
    options = parser.parse_args(arguments)
    if (claim := CLAIMS.get(options.id)) is None:
        near = difflib.get_close_matches(options.id, CLAIMS, n=5, cutoff=0.5)
        near = near or [id for id in CLAIMS if id.split("-")[0] == options.id.split("-")[0]]
        parser.error(f"there is no claim {options.id!r}; near it: {', '.join(near) or 'none; see docs/claims.md'}")
    return decide(claim, options.notebooks, options.build, options.timeout)


def decide(claim: Claim, notebooks: Path, build: Path, timeout: float) -> int:
    """Run and print; 0 if the claim holds, else 1. The executed notebook stays in a folder of `build`."""
    folder = build.resolve() / claim.id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source, executed = folder / "source.ipynb", folder / f"{claim.notebook}.ipynb"
    notebook = nbformat.read(notebooks / f"{claim.notebook}.ipynb", as_version=4)
    nbformat.write(up_to_the_verdict(notebook, claim.id), source)
    print(f"{claim.id}: {claim.statement} ({claim.whose})", flush=True)
    start, parameters = time.monotonic(), {"output_dir": str(folder)}
    ended = asyncio.run(execute(source, executed, parameters, timeout, 0, cwd=notebooks))
    seconds = time.monotonic() - start
    try:
        done = read_executed(executed, ended_by=ended.by)
    except NotebookProblem as problem:
        print(f"FAILED {problem}")
        return 1
    reached = [verdict for verdict in verdicts(done) if verdict.claim == claim.id]
    for verdict in reached:
        print(f"{'HOLDS' if verdict.holds else 'FAILS'}  {verdict.line}")
    if not reached:
        print(f"FAILED no verdict was reached: {ended.by or _error(done)}")
    print(f"{claim.notebook}, {len(done.cells)} cells, {seconds:.0f} s; code {claim.function}, test tests/{claim.test}")
    print(f"run in {executed}")
    return 0 if any(verdict.holds for verdict in reached) else 1


def up_to_the_verdict(notebook: NotebookNode, id: str) -> NotebookNode:
    """The notebook without what comes after the cell that decides the claim.

    Raises:
        ValueError: no cell decides it.
    """
    deciding = [
        i for i, cell in enumerate(notebook.cells) if "assert_claim(" in cell.source and f'"{id}"' in cell.source
    ]
    if not deciding:
        raise ValueError(f"no cell of the notebook decides {id}")
    notebook.cells = notebook.cells[: deciding[0] + 1]
    return notebook


def _error(notebook: NotebookNode) -> str:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return next((f"{o.ename}: {o.evalue}" for o in outputs if o.output_type == "error"), "the notebook ended early")


if __name__ == "__main__":
    sys.exit(main())
