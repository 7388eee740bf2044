"""Run the notebooks with papermill, check what they made and claimed, and move good results into build/.

A notebook runs in a staging folder. Only when every check has passed are its figures, the executed notebook and
last its receipt moved into place, so that a failure leaves earlier good results as they were. A notebook whose
receipt matches its source, the package, the data, the parameters and the library versions is not run again.
"""

import argparse
import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
import yaml
from filelock import FileLock, Timeout
from nbformat import NotebookNode
from tqdm import tqdm

from companion.files import sha256, write_atomically
from companion.notebooks.checks import (
    NotebookProblem,
    check_run,
    declared_artifacts,
    default_parameters,
    read_executed,
    read_notebook,
)
from companion.notebooks.claims import CLAIMS, verdicts
from companion.notebooks.receipts import (
    Result,
    Settings,
    artifacts_on_record,
    forget_removed_notebooks,
    is_intact,
    problems_of_build,
    read_receipt,
    run_key,
    write_manifest,
)
from companion.provenance import provenance

# One thread a notebook: results must not depend on how many run at a time.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _execute(source: str, target: str, parameters: dict[str, Any], cwd: str, error: str) -> None:
    """Body of the child process: one papermill run, its exception left in the file `error`, its log beside it."""
    os.environ.update(ONE_THREAD, TQDM_DISABLE="1")  # bars inside a notebook are for people who watch it
    with Path(error).with_name("log.txt").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        papermill.execute_notebook(
            source,
            target,
            parameters=parameters,
            cwd=cwd,
            kernel_name="python3",
            start_timeout=120,
            progress_bar=False,
            request_save_on_cell_execute=True,
        )
    except papermill.PapermillExecutionError:
        pass  # the notebook itself holds the error
    except BaseException as exception:
        Path(error).write_text(f"{type(exception).__name__}: {exception}".strip())


def _kill_tree(pid: int) -> None:
    """Kill a process and all its descendants, the kernel among them."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def execute(path: Path, staging: Path, settings: Settings, bar: tqdm, stop: threading.Event) -> str | None:
    """Run one notebook into `staging` until it ends, `stop` is set or time is up; returns what cut it short."""
    shutil.rmtree(staging, ignore_errors=True)
    (staging / "figures").mkdir(parents=True)
    target, error = staging / path.name, staging / "error.txt"
    parameters = {**settings.parameters, "output_dir": str((staging / "figures").resolve())}
    arguments = (
        str(path.resolve()),
        str(target.resolve()),
        parameters,
        str(path.parent.resolve()),
        str(error.resolve()),
    )
    child = multiprocessing.get_context("spawn").Process(target=_execute, args=arguments)
    child.start()
    deadline = time.monotonic() + settings.timeout
    try:
        while child.is_alive() and time.monotonic() < deadline and not stop.is_set():
            child.join(0.5)
            with contextlib.suppress(OSError):
                done = target.read_text().count('"status": "completed"')  # papermill's own cell may come on top
                bar.update(min(done, bar.total) - bar.n)
        if child.is_alive():
            return "was interrupted" if stop.is_set() else f"exceeded the time limit of {settings.timeout:g} s"
    finally:
        _kill_tree(child.pid)
        child.join()
    if error.is_file():
        return error.read_text()
    return f"its process ended with exit code {child.exitcode}" if child.exitcode else None


def run_notebook(path: Path, settings: Settings, stop: threading.Event, position: int = 0) -> Result:
    """Run, check and install one notebook, unless its results are already there."""
    stem, start = path.stem, time.monotonic()
    source = read_notebook(path, settings.parameters)
    key = run_key(source, settings)
    receipt = read_receipt(stem, settings)
    if not settings.force and receipt and receipt["key"] == key and is_intact(receipt["artifacts"], settings.build):
        _forget_failure(stem, settings)
        return Result(stem, "unchanged", receipt["seconds"], verdicts=tuple(receipt["verdicts"]))
    staging = settings.build / "staging" / stem
    quiet = 1 if sys.stderr.isatty() else 20
    with tqdm(total=len(source.cells), desc=stem, unit="cell", position=position, mininterval=quiet) as bar:
        ended_by = execute(path, staging, settings, bar, stop)
        bar.update(bar.total - bar.n if ended_by is None else 0)
    seconds = round(time.monotonic() - start, 1)
    executed = staging / path.name
    reached: tuple[dict, ...] = ()
    try:
        if not executed.is_file():
            raise NotebookProblem(stem, ended_by or "papermill wrote no notebook")
        notebook = read_executed(executed)
        reached = tuple(asdict(verdict) for verdict in verdicts(notebook))
        check_run(notebook, stem, staging / "figures", ended_by=ended_by)
    except NotebookProblem as problem:
        settings.failed(stem).parent.mkdir(parents=True, exist_ok=True)
        if executed.is_file():
            os.replace(executed, settings.failed(stem))
        if (staging / "log.txt").is_file():
            os.replace(staging / "log.txt", settings.failed(stem).with_suffix(".log"))
        shutil.rmtree(staging)
        return Result(stem, "failed", seconds, str(problem), reached)
    _install(path, notebook, staging, key, seconds, reached, settings)
    return Result(stem, "ok", seconds, verdicts=reached)


def _install(path, notebook, staging, key, seconds, reached, settings: Settings) -> None:
    """Move checked results into place; the receipt, written last, vouches for them."""
    stem, receipt_path = path.stem, settings.receipt(path.stem)
    for folder in (settings.figures, settings.executed(stem).parent, receipt_path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    receipt_path.unlink(missing_ok=True)
    artifacts = [settings.executed(stem)]
    os.replace(staging / path.name, artifacts[0])
    for name in declared_artifacts(notebook):
        os.replace(staging / "figures" / name, settings.figures / name)
        artifacts.append(settings.figures / name)
    hashes = {artifact.relative_to(settings.build).as_posix(): sha256(artifact) for artifact in artifacts}
    config = {name: str(value) for name, value in (default_parameters(path) | dict(settings.parameters)).items()}
    receipt = {
        "key": key,
        "config": config,
        "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        "seed": config.get("seed"),
        "seconds": seconds,
        "verdicts": reached,
        "figures": [json.loads((settings.figures / name).read_text()) for name in _figure_records(notebook)],
        "made_by": provenance(),
        "artifacts": hashes,
    }
    write_atomically(receipt_path, json.dumps(receipt, indent=1, sort_keys=True) + "\n")
    _forget_failure(stem, settings)
    shutil.rmtree(staging)


def _figure_records(notebook: NotebookNode) -> list[str]:
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    return [tag.removeprefix("figure:") + ".json" for tag in tags if tag.startswith("figure:")]


def _forget_failure(stem: str, settings: Settings) -> None:
    for path in (settings.failed(stem), settings.failed(stem).with_suffix(".log")):
        path.unlink(missing_ok=True)


def run_all(paths: list[Path], settings: Settings, jobs: int) -> list[Result]:
    """Run the notebooks, `jobs` at a time; a notebook that cannot be run becomes a failed result."""
    stop = threading.Event()

    def attempt(number: int, path: Path) -> Result:
        try:
            return run_notebook(path, settings, stop, position=number if sys.stderr.isatty() else 0)
        except NotebookProblem as problem:
            return Result(path.stem, "failed", 0.0, str(problem))
        except OSError as error:  # a full disk must not end the other notebooks
            return Result(path.stem, "failed", 0.0, f"{path.stem}: {type(error).__name__}: {error}")

    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(pool.map(attempt, range(len(paths)), paths))
        except BaseException:  # Ctrl-C or SIGTERM: end the running kernels, start no more
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def refresh_committed(paths: list[Path], settings: Settings) -> None:
    """Copy the executed notebooks over the committed ones, free of traces of the run, and the README's pictures.

    Raises:
        NotebookProblem: a notebook was edited while it ran, or the README shows a picture that no notebook made.
    """
    readme = settings.notebooks.resolve().parent / "README.md"
    shown = re.findall(r"\(notebooks/figures/([\w.-]+\.png)\)", readme.read_text() if readme.is_file() else "")
    if missing := [name for name in shown if not (settings.figures / name).is_file()]:
        raise NotebookProblem("README.md", f"shows {', '.join(missing)}, which no notebook has made")
    for path in paths:
        if run_key(read_notebook(path, {}), settings) != read_receipt(path.stem, settings)["key"]:
            raise NotebookProblem(path.stem, "was edited while it ran; run --refresh again")
    for path in paths:
        notebook = read_executed(settings.executed(path.stem))
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
        write_atomically(path, nbformat.writes(notebook) + "\n")
    pictures = settings.notebooks / "figures"
    for name in shown:
        pictures.mkdir(exist_ok=True)
        shutil.copyfile(settings.figures / name, pictures / name)


def closing_table(results: list[Result], *, only_theirs: bool) -> tuple[str, int, int]:
    """The table of all claims, or only those of the notebooks in `results`; how many hold, and how many there are."""
    reached = {(result.stem, verdict["claim"]): verdict for result in results for verdict in result.verdicts}
    stems = {result.stem for result in results}
    claims = [claim for claim in CLAIMS.values() if claim.notebook in stems or not only_theirs]
    lines = [f"{'claim':24}{'statement':52}{'notebook':26}{'verdict':13}seconds"]
    for claim in claims:
        verdict = reached.get((claim.notebook, claim.id))
        seconds = "" if verdict is None or verdict["seconds"] is None else f"{verdict['seconds']:.1f}"
        word = "not reached" if verdict is None else "holds" if verdict["holds"] else "FAILS"
        statement = claim.statement if len(claim.statement) <= 50 else claim.statement[:49] + "…"
        lines.append(f"{claim.id:24}{statement:52}{claim.notebook:26}{word:13}{seconds:>7}")
    return (
        "\n".join(lines),
        sum(reached.get((c.notebook, c.id), {"holds": False})["holds"] for c in claims),
        len(claims),
    )


def _select(notebooks: Path, only: list[str] | None) -> list[Path]:
    every = sorted(notebooks.glob("*.ipynb"))
    if not every:
        raise ValueError(f"no notebooks in {notebooks}; run from the project's root or pass --notebooks")
    unknown = [name for name in only or [] if not any(path.stem.startswith(name) for path in every)]
    if unknown:
        raise ValueError(f"no notebook is called {', '.join(unknown)}; there are {', '.join(p.stem for p in every)}")
    makers: dict[str, str] = {}
    for path in every:
        with contextlib.suppress(NotebookProblem):
            for name in declared_artifacts(read_notebook(path, {})):
                if makers.setdefault(name, path.stem) != path.stem:
                    raise ValueError(f"{makers[name]} and {path.stem} both declare {name}; rename one of them")
    return [path for path in every if not only or any(path.stem.startswith(name) for name in only)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m companion.notebooks.reproduce", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="notebooks by name or beginning, such as 02")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time (default 2; 1 is serial)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds of wall clock for each notebook")
    parser.add_argument("--force", action="store_true", help="run notebooks even if nothing has changed")
    parser.add_argument("--check", action="store_true", help="run nothing; compare build/ with its manifest")
    parser.add_argument("--refresh", action="store_true", help="then update the committed outputs and README pictures")
    parser.add_argument("--notebooks", type=Path, default=Path("notebooks"))
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 0 if all is good, 1 after a failure. Bad usage exits with 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.check:
        problems = problems_of_build(options.build)
        print("\n".join(problems) or "build/ is as its manifest says")
        return 1 if problems else 0
    if options.jobs < 1 or not 0 < options.timeout < math.inf:
        parser.error(f"--jobs is {options.jobs} and --timeout {options.timeout:g}; expected at least 1 and above 0")
    if options.refresh and options.parameters:
        parser.error("--refresh writes the outputs at default parameters; leave out -p")
    try:
        paths = _select(options.notebooks, options.only)
    except ValueError as error:
        parser.error(str(error))
    try:
        parameters = {name: yaml.safe_load(value) for name, value in options.parameters}
    except yaml.YAMLError as error:
        parser.error(f"a value of -p is not YAML: {error}")
    if "output_dir" in parameters:
        parser.error("output_dir is set for each run; choose the folder with --build")
    settings = Settings(options.notebooks, options.build, options.data, parameters, options.timeout, options.force)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # unwinds, so that kernels are killed
    settings.build.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(settings.build / ".lock", timeout=0):
            return _run(paths, settings, options)
    except Timeout:
        parser.error(f"another run is at work in {settings.build}; wait for it or choose another --build")


def _run(paths: list[Path], settings: Settings, options: argparse.Namespace) -> int:
    start = time.monotonic()
    before = artifacts_on_record(settings)
    forget_removed_notebooks(settings)
    results = run_all(paths, settings, options.jobs)
    for stale in before.keys() - artifacts_on_record(settings).keys():
        (settings.build / stale).unlink(missing_ok=True)
    write_manifest(results, settings)
    table, holding, claims = closing_table(results, only_theirs=bool(options.only))
    print(f"\n{table}\n")
    for result in results:
        print(f"{result.stem:30}{result.status:12}{result.seconds:6.1f} s")
    failures = [result for result in results if result.status == "failed"]
    for result in failures:
        kept = settings.failed(result.stem)
        print(f"\nFAILED {result.problem}" + (f"\n       see {kept}" if kept.is_file() else ""))
    if options.refresh and not failures:
        try:
            refresh_committed(paths, settings)
        except NotebookProblem as problem:
            print(f"\nFAILED {problem}")
            return 1
    elapsed = time.monotonic() - start
    print(f"\n{holding} of {claims} claims hold; {len(results)} notebooks, {len(failures)} failed; {elapsed:.0f} s")
    return 1 if failures or holding < claims else 0


if __name__ == "__main__":
    sys.exit(main())
