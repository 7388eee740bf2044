"""Measurements in processes of their own: nothing that ran before has warmed a cache or kept memory."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import torch

from companion.processes import end_with_parent


def in_fresh_process(function: Callable[..., Any], *arguments: Any, threads: int) -> Any:
    """What `function` gives in a new process whose torch computes with `threads` threads."""
    context = multiprocessing.get_context("spawn")
    settings = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    with (
        mock.patch.dict(os.environ, settings),
        ProcessPoolExecutor(1, context, initializer=_begin, initargs=(threads,)) as pool,
    ):
        return pool.submit(function, *arguments).result()


def _begin(threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
