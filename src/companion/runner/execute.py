"""One notebook run by papermill, in a process of its own that leaves nothing alive.

`execute` is the runner's side; `python -m companion.runner.execute` is the process. Its standard input is a pipe
that only the runner holds: when the runner is gone, even by kill -9, the pipe ends and the process kills its kernel
and whatever that has started.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import papermill
import yaml

from companion.processes import adopt_orphans, kill_descendants, kill_tree, memory

ENVIRONMENT = {
    # One thread: results must not depend on how many notebooks run at a time.
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "TQDM_DISABLE": "1",  # bars are for people who watch a notebook
    "PYTHONUTF8": "1",
    "JUPYTER_PATH": "",  # a kernel "python3" found there would be another Python's
}
SECONDS_BETWEEN_LOOKS = 0.2  # at the memory in use; what comes and goes in between is not seen


class Ended(NamedTuple):
    """How a run ended: what cut it short, if anything did, and the most memory in bytes that its processes took."""

    by: str | None
    peak: int


async def execute(
    path: Path, target: Path, parameters: Mapping[str, Any], timeout: float, line: int, *, cwd: Path | None = None
) -> Ended:
    """Run the notebook at `path` into `target`, saved at every cell, with a log beside it.

    Nothing of the run is alive afterwards, whether it ended, took longer than `timeout` seconds or was cancelled.
    The progress bar stands on the screen's line number `line`. The kernel starts in `cwd`, by default the notebook's
    folder.
    """
    run = {"input_path": str(path.resolve()), "output_path": str(target), "parameters": dict(parameters)}
    command = [sys.executable, "-m", __name__, yaml.safe_dump(run), str((cwd or path.parent).resolve()), str(line)]
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    environment = {**_home(target.parent), **os.environ, **ENVIRONMENT}
    child = await asyncio.create_subprocess_exec(*command, **pipes, env=environment)
    peak, said = 0, asyncio.create_task(child.stdout.read())
    try:
        async with asyncio.timeout(timeout):
            while not said.done():
                peak = max(peak, memory(child.pid))
                await asyncio.wait([said], timeout=SECONDS_BETWEEN_LOOKS)
            await child.wait()
    except TimeoutError:
        return Ended(f"exceeded the time limit of {timeout:g} s", peak)
    finally:
        if child.returncode is None:
            kill_tree(child.pid)
            await child.wait()
    if child.returncode:
        return Ended(said.result().decode() or f"its process ended with exit code {child.returncode}", peak)
    return Ended(None, peak)


def _home(folder: Path) -> dict[str, str]:
    """What Jupyter needs of a user without a home folder, such as a bare number in a container: `folder` is as good."""
    try:
        Path.home()
    except RuntimeError:
        return {"HOME": str(folder)}
    return {}


def _die_with_the_runner() -> None:
    os.read(0, 1)  # nothing is ever written: this returns when the runner is gone
    kill_tree(os.getpid())


def main(run: str, cwd: str, line: str) -> int:
    """Body of the process; returns 1 and says why on standard output if anything but a cell fails."""
    adopt_orphans()
    threading.Thread(target=_die_with_the_runner, daemon=True).start()
    screen = os.fdopen(os.dup(2), "w", encoding="utf-8")
    runner = os.dup(1)
    try:
        target = Path(yaml.safe_load(run)["output_path"])
        with target.with_suffix(".log").open("wb") as log:
            for stream in (1, 2):  # of papermill and the kernel; only the bar goes to the screen
                os.dup2(log.fileno(), stream)
        place = {"position": int(line)} if screen.isatty() else {"mininterval": 20}
        papermill.execute_notebook(
            **yaml.safe_load(run),
            cwd=cwd,
            kernel_name="python3",
            start_timeout=120,
            progress_bar={"desc": target.stem, "file": screen, "disable": False, **place},
            request_save_on_cell_execute=True,
        )
    except papermill.PapermillExecutionError:
        pass  # the notebook itself holds the error
    except BaseException as error:
        os.write(runner, f"{type(error).__name__}: {error}".strip().encode(errors="replace"))
        return 1
    finally:
        kill_descendants(os.getpid())  # what a cell or a dead kernel has left
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
