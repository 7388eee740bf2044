"""Run notebooks, check what they made and claimed, and move good results into build/.

A notebook runs in a staging folder that no other run ever has. Only when every check has passed are its figures, the
executed notebook and last its receipt moved into place, so that a failure leaves earlier good results as they were.
"""

import asyncio
import hashlib
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from nbformat import NotebookNode

from companion.files import sha256, write_atomically
from companion.notebooks.claims import verdicts
from companion.provenance import provenance
from companion.runner import checks
from companion.runner.checks import NotebookProblem
from companion.runner.execute import execute
from companion.runner.receipts import Result, Settings, is_intact, read_receipt, run_key


def run_all(paths: list[Path], settings: Settings, jobs: int) -> list[Result]:
    """Run the notebooks, `jobs` at a time; one that cannot be run becomes a failed result and ends no other.

    Ctrl-C or an exception from a signal handler ends the kernels that run and starts no more.
    """

    async def all_of_them() -> list[Result]:
        free = asyncio.Semaphore(jobs)

        async def attempt(line: int, path: Path) -> Result:
            async with free:
                try:
                    return await run_notebook(path, settings, line)
                except NotebookProblem as problem:
                    return Result(path.stem, "failed", problem=str(problem))
                except Exception as error:  # such as a full disk
                    return Result(path.stem, "failed", problem=f"{path.stem}: {type(error).__name__}: {error}")

        return await asyncio.gather(*(attempt(line, path) for line, path in enumerate(paths)))

    return asyncio.run(all_of_them())


async def run_notebook(path: Path, settings: Settings, line: int = 0) -> Result:
    """Run, check and install one notebook, unless a receipt vouches that this would change nothing."""
    stem, failed, start = path.stem, settings.failed(path.stem), time.monotonic()
    for leftover in (failed, failed.with_suffix(".log")):
        leftover.unlink(missing_ok=True)
    key = run_key(checks.read_notebook(path, settings.parameters), settings)
    receipt = read_receipt(stem, settings)
    if not settings.force and receipt and receipt["key"] == key and is_intact(receipt["artifacts"], settings.build):
        return Result(stem, "unchanged", receipt["seconds"], receipt["peak"], verdicts=tuple(receipt["verdicts"]))
    for name in ("staging", "figures", "notebooks", "receipts"):
        (settings.build / name).mkdir(exist_ok=True)
    where = {"prefix": f"{stem}-", "dir": settings.build.resolve() / "staging", "ignore_cleanup_errors": True}
    with tempfile.TemporaryDirectory(**where) as folder:
        staging = Path(folder)  # laid out as build/ is
        executed, figures = staging / "notebooks" / path.name, staging / "figures"
        executed.parent.mkdir()
        figures.mkdir()
        parameters = {**settings.parameters, "output_dir": str(figures)}
        ended = await execute(path, executed, parameters, settings.timeout, line)
        seconds = round(time.monotonic() - start, 1)
        reached: tuple[dict, ...] = ()
        try:
            notebook = checks.read_executed(executed, ended_by=ended.by)
            reached = tuple(asdict(verdict) for verdict in verdicts(notebook))
            checks.check_run(notebook, stem, figures, ended_by=ended.by)
        except NotebookProblem as problem:
            for suffix in (".log", ".ipynb"):
                if executed.with_suffix(suffix).is_file():
                    os.replace(executed.with_suffix(suffix), failed.with_suffix(suffix))
            return Result(stem, "failed", seconds, ended.peak, str(problem), reached)
        facts = {"key": key, "seconds": seconds, "peak": ended.peak, "verdicts": reached}
        _install(path, notebook, staging, facts, settings)
    return Result(stem, "ok", seconds, ended.peak, verdicts=reached)


def _install(path: Path, notebook: NotebookNode, staging: Path, facts: dict, settings: Settings) -> None:
    """Move checked results into place; the receipt, written last, vouches for them."""
    artifacts = [f"notebooks/{path.name}", *(f"figures/{name}" for name in checks.declared_artifacts(notebook))]
    figures = [staging / "figures" / f"{name}.json" for name in checks.tagged(notebook, "figure:")]
    values = checks.default_parameters(path) | dict(settings.parameters)
    config = {name: str(value) for name, value in values.items()}
    receipt = {
        **facts,
        "config": config,
        "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        "seed": config.get("seed"),
        "figures": [json.loads(file.read_text(encoding="utf-8")) for file in figures],
        "made_by": provenance(),
        "artifacts": {name: sha256(staging / name) for name in artifacts},
    }
    settings.receipt(path.stem).unlink(missing_ok=True)
    for name in artifacts:
        os.replace(staging / name, settings.build / name)
    write_atomically(settings.receipt(path.stem), json.dumps(receipt, indent=1, sort_keys=True) + "\n")
