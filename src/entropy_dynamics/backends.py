"""Who makes the one pass over the vocabulary: plain torch, torch.compile or Triton."""

import importlib.util
from functools import cache

import torch

from entropy_dynamics.vocabulary_sums import EAGER, Backend

WORTH_COMPILING = 2**24  # logits; compilation takes seconds once, and saves tens of milliseconds on every call


def select(name: str, *, elements: int, device: torch.device) -> Backend:
    """The backend of a name; for "auto" the fastest that suits so many logits on this device.

    Raises:
        ValueError: an unknown name, or Triton on a device or installation that cannot run it.
    """
    if name == "auto":
        if device.type == "cuda":
            name = "triton" if _triton_is_installed() else "eager"
        else:
            name = "compiled" if device.type == "cpu" and elements >= WORTH_COMPILING else "eager"
    if name == "eager":
        return EAGER
    # Imported only where they are chosen: one loads torch's compiler, the other needs Triton.
    if name == "compiled":
        from entropy_dynamics.compiled_backend import compiled_backend

        return compiled_backend()
    if name == "triton":
        if not _triton_is_installed():
            raise ValueError("backend 'triton' needs the package triton, which is not installed; choose 'auto'")
        from entropy_dynamics.triton_backend import triton_backend

        return triton_backend(device)
    raise ValueError(f"unknown backend {name!r}; choose from auto, eager, compiled, triton")


@cache
def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None
