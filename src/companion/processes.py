"""Processes that end with those that started them, fresh ones to measure in, and the memory of a tree of them."""

import contextlib
import ctypes
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import psutil

GONE = (psutil.NoSuchProcess, psutil.AccessDenied)
_PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl


def end_with_parent() -> None:
    """For a worker of a pool: end as soon as the pool's process is gone, which may be killed at any moment."""
    _end_after(multiprocessing.parent_process().join)


def end_with_launcher() -> None:
    """For a process that torchrun starts: end soon after torchrun, or whoever called it, is gone."""
    above = psutil.Process().parents()[:2]

    def wait() -> None:
        while all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in above):
            time.sleep(0.5)

    _end_after(wait)


def _end_after(wait: Callable[[], None]) -> None:
    def follow() -> None:
        with contextlib.suppress(*GONE):
            wait()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def adopt_orphans() -> None:
    """On Linux a descendant whose parent ends becomes a child of this process, where `kill_descendants` finds it."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_descendants(pid: int) -> None:
    """Kill all descendants of a process; looks again until there are none, since they may start more meanwhile."""
    for _ in range(100):
        if not (living := _living(pid)[1:]):
            return
        for process in living:
            with contextlib.suppress(*GONE):
                process.kill()
        time.sleep(0.02)


def kill_tree(pid: int) -> None:
    """Kill a process and all its descendants."""
    with contextlib.suppress(*GONE):
        process = psutil.Process(pid)
        if pid != os.getpid():
            process.suspend()  # it starts no more
        kill_descendants(pid)
        process.kill()


def memory(pid: int) -> int:
    """Bytes that a process and its descendants take now; pages that several share count once (elsewhere than on Linux:
    not at all)."""
    total = 0
    for process in _living(pid):
        with contextlib.suppress(*GONE):
            used = process.memory_full_info()
            total += getattr(used, "pss", used.uss)
    return total


def _living(pid: int) -> list[psutil.Process]:
    """A process and its descendants, without those that have ended and wait to be asked for their status."""
    living = []
    with contextlib.suppress(*GONE):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(*GONE):
                if each.status() != psutil.STATUS_ZOMBIE:
                    living.append(each)
    return living


def in_fresh_process(function: Callable[..., Any], *arguments: Any, threads: int) -> Any:
    """What `function` gives in a new process whose torch computes with `threads` threads.

    Nothing that ran before has warmed a cache or kept memory there.
    """
    context = multiprocessing.get_context("spawn")
    settings = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    with (
        mock.patch.dict(os.environ, settings),
        ProcessPoolExecutor(1, context, initializer=_begin, initargs=(threads,)) as pool,
    ):
        return pool.submit(function, *arguments).result()


def _begin(threads: int) -> None:
    import torch  # which most of those that use this module do without

    end_with_parent()
    torch.set_num_threads(threads)
