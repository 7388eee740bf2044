"""One notebook run by papermill, in a process of its own that leaves nothing alive.

`execute` is the runner's side; `python -m companion.runner.execute` is the process. Its standard input is a pipe
that only the runner holds: when the runner is gone, even by kill -9, the pipe ends and the process kills its kernel.
"""

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill
import psutil
import yaml

# One thread: results must not depend on how many notebooks run at a time. Bars are for people who watch a notebook.
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "TQDM_DISABLE": "1",
    "PYTHONUTF8": "1",
}


async def execute(path: Path, target: Path, parameters: Mapping[str, Any], timeout: float, line: int) -> str | None:
    """Run the notebook at `path` into `target`, saved at every cell, with a log beside it; returns what cut it short.

    Nothing of the run is alive afterwards, whether it ended, took longer than `timeout` seconds or was cancelled.
    The progress bar stands on the screen's line number `line`.
    """
    run = {"input_path": str(path.resolve()), "output_path": str(target), "parameters": dict(parameters)}
    command = [sys.executable, "-m", __name__, yaml.safe_dump(run), str(path.parent.resolve()), str(line)]
    log = target.with_suffix(".log")
    with log.open("wb") as file:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=file, env={**os.environ, **ENVIRONMENT}
        )
    try:
        async with asyncio.timeout(timeout):
            await child.wait()
    except TimeoutError:
        return f"exceeded the time limit of {timeout:g} s"
    finally:
        if child.returncode is None:
            kill_tree(child.pid)
            await child.wait()
    if child.returncode == 1 and (lines := log.read_text(encoding="utf-8", errors="replace").splitlines()):
        return lines[-1]
    return f"its process ended with exit code {child.returncode}" if child.returncode else None


def kill_tree(pid: int) -> None:
    """Kill a process and all its descendants, the kernel among them."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def _die_with_the_runner() -> None:
    os.read(0, 1)  # nothing is ever written: this returns when the runner is gone
    kill_tree(os.getpid())


def main(run: str, cwd: str, line: str) -> None:
    """Body of the process; exits with a message if anything but a cell fails."""
    threading.Thread(target=_die_with_the_runner, daemon=True).start()
    screen = os.fdopen(os.dup(2), "w", encoding="utf-8")
    os.dup2(1, 2)  # what papermill and the kernel say goes to the log, only the bar to the screen
    place = {"position": int(line)} if screen.isatty() else {"mininterval": 20}
    bar = {"desc": Path(yaml.safe_load(run)["output_path"]).stem, "file": screen, "disable": False, **place}
    try:
        papermill.execute_notebook(
            **yaml.safe_load(run),
            cwd=cwd,
            kernel_name="python3",
            start_timeout=120,
            progress_bar=bar,
            request_save_on_cell_execute=True,
        )
    except papermill.PapermillExecutionError:
        pass  # the notebook itself holds the error
    except BaseException as error:
        sys.exit(f"{type(error).__name__}: {error}".strip())


if __name__ == "__main__":
    main(*sys.argv[1:])
