"""Run the notebooks with papermill, check what they made and claimed, and move good results into build/.

A notebook whose receipt matches its source, the packages, the data, the parameters and the library versions is not run
again.
"""

import argparse
import contextlib
import math
import shutil
import signal
import sys
import time
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from companion.notebooks.claims import CLAIMS, Claim
from companion.runner import receipts
from companion.runner.checks import NotebookProblem, declared_artifacts, read_notebook
from companion.runner.receipts import Result, Settings
from companion.runner.refresh import refresh_committed
from companion.runner.runner import run_all

NAMES = "[0-9][0-9]_*.ipynb"  # other notebooks in the folder are the reader's own


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 0 if all is good, 1 after a failure. Bad usage exits with 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.check:
        problems = receipts.problems_of_build(options.build)
        print("\n".join(problems) or "build/ is as its manifest says")
        return 1 if problems else 0
    try:
        paths, parameters = _checked(options)
    except ValueError as error:
        parser.error(str(error))
    settings = Settings(options.notebooks, options.build, options.data, parameters, options.timeout, options.force)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # unwinds, so that kernels are killed
    try:
        settings.build.mkdir(parents=True, exist_ok=True)
        lock = FileLock(settings.build / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        parser.error(f"another run is at work in {settings.build}; wait for it or choose another --build")
    except OSError as error:
        parser.error(f"--build: cannot write to {settings.build.resolve()} ({error.strerror}); choose another folder")
    with lock:
        return _run(paths, settings, options)


def _parser() -> argparse.ArgumentParser:
    name = "python -m companion.runner.reproduce"
    parser = argparse.ArgumentParser(
        prog=name,
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="notebooks by name or beginning, such as 02")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the notebooks that are run, its value in YAML; may be given again",
    )
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time; 1 is serial")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds of wall clock for each notebook")
    parser.add_argument("--force", action="store_true", help="run notebooks even if nothing has changed")
    parser.add_argument("--check", action="store_true", help="run nothing; compare build/ with its manifest")
    parser.add_argument("--refresh", action="store_true", help="then update the committed outputs and README pictures")
    folders = {"notebooks": "of the notebooks", "build": "for what they make", "data": "of what they read"}
    for name, words in folders.items():
        parser.add_argument(f"--{name}", type=Path, default=Path(name), help=f"folder {words}")
    return parser


def _checked(options: argparse.Namespace) -> tuple[list[Path], dict]:
    """The selected notebooks and the parameters; an option that makes no sense is a ValueError."""
    if options.jobs < 1 or not 0 < options.timeout < math.inf:
        raise ValueError(f"--jobs is {options.jobs} and --timeout {options.timeout:g}; expected at least 1 and above 0")
    if options.refresh and options.parameters:
        raise ValueError("--refresh writes the outputs at default parameters; leave out -p")
    for name in ("notebooks", "data"):
        if not (folder := getattr(options, name)).is_dir():
            raise ValueError(f"--{name}: there is no folder {folder.resolve()}")
    try:
        parameters = {name: yaml.safe_load(value) for name, value in options.parameters}
    except yaml.YAMLError as error:
        raise ValueError(f"a value of -p is not YAML: {error}") from error
    if "output_dir" in parameters:
        raise ValueError("output_dir is set for each run; choose the folder with --build")
    return _select(options.notebooks, options.only), parameters


def _select(notebooks: Path, only: list[str] | None) -> list[Path]:
    every = sorted(notebooks.glob(NAMES))
    for path in sorted(set(notebooks.glob("*.ipynb")) - set(every)):
        print(f"left out: {path.name} (notebooks of the project are named {NAMES})")
    if not every:
        raise ValueError(f"no notebooks in {notebooks.resolve()}; run from the project's root or pass --notebooks")
    if unknown := [name for name in only or [] if not any(path.stem.startswith(name) for path in every)]:
        raise ValueError(f"no notebook is called {', '.join(unknown)}; there are {', '.join(p.stem for p in every)}")
    makers: dict[str, str] = {}
    for path in every:
        with contextlib.suppress(NotebookProblem):
            for name in declared_artifacts(read_notebook(path, {})):
                if makers.setdefault(name, path.stem) != path.stem:
                    raise ValueError(f"{makers[name]} and {path.stem} both declare {name}; rename one of them")
    return [path for path in every if not only or path.stem.startswith(tuple(only))]


def _run(paths: list[Path], settings: Settings, options: argparse.Namespace) -> int:
    start = time.monotonic()
    shutil.rmtree(settings.build / "staging", ignore_errors=True)  # of killed runs: a living one would hold the lock
    before = receipts.artifacts_on_record(settings)
    receipts.forget_removed_notebooks(settings)
    results = run_all(paths, settings, options.jobs)
    for stale in before.keys() - receipts.artifacts_on_record(settings).keys():
        (settings.build / stale).unlink(missing_ok=True)
    stems = {result.stem for result in results}
    claims = [claim for claim in CLAIMS.values() if claim.notebook in stems or not options.only]
    table, holding = closing_table(results, claims)
    print(f"\n{table}\n")
    for result in results:
        print(f"{result.stem:40}{result.status:12}{result.seconds:6.1f} s  {result.peak / 1e9:5.2f} GB at the peak")
    failures = [result for result in results if result.status == "failed"]
    for result in failures:
        kept = settings.failed(result.stem)
        print(f"\nFAILED {result.problem}" + (f"\n       see {kept}" if kept.is_file() else ""))
    try:
        receipts.write_manifest(results, settings)
    except OSError as error:
        print(f"\nFAILED no manifest could be written: {error}")
        return 1
    if options.refresh and not failures:
        try:
            refresh_committed(paths, settings, partial=bool(options.only))
        except NotebookProblem as problem:
            print(f"\nFAILED {problem}")
            return 1
    elapsed = time.monotonic() - start
    print(
        f"\n{holding} of {len(claims)} claims hold; {len(results)} notebooks, {len(failures)} failed; {elapsed:.0f} s"
    )
    return 1 if failures or holding < len(claims) else 0


def closing_table(results: list[Result], claims: list[Claim]) -> tuple[str, int]:
    """The table of the verdicts on `claims`, and how many of them hold."""
    reached = {(result.stem, verdict["claim"]): verdict for result in results for verdict in result.verdicts}
    lines, holding = [f"{'claim':24}{'statement':52}{'notebook':26}{'verdict':13}seconds"], 0
    for claim in claims:
        verdict = reached.get((claim.notebook, claim.id), {"holds": None, "seconds": None})
        holding += bool(verdict["holds"])
        word = {None: "not reached", True: "holds", False: "FAILS"}[verdict["holds"]]
        seconds = "" if verdict["seconds"] is None else f"{verdict['seconds']:.1f}"
        statement = claim.statement if len(claim.statement) <= 50 else claim.statement[:49] + "…"
        lines.append(f"{claim.id:24}{statement:52}{claim.notebook:26}{word:13}{seconds:>7}")
    return "\n".join(lines), holding


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character must not end the run
    sys.exit(main())
