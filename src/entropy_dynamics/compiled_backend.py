"""The vocabulary sums and the softmax as loops that torch.compile makes from a few lines."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from entropy_dynamics.vocabulary_sums import LOWEST, Backend, from_matrices

PART = 2**15  # so many logits of a state are added up before the sum goes to float64
VARIANTS = 64  # code is made once for each dtype, kind of strides, size above 4096 or not, and 4 sums or 6; never more


@cache
def compiled_backend() -> Backend:
    """The compiled backend; the same one at each call."""
    return from_matrices("torch.compile", _sums_of_matrix, _softmax_of_matrix)


@cache
def _compiled(operation: Callable) -> Callable:
    """At the first call, not at import: torch's compiler makes a folder when it is imported, which may fail."""
    return torch.compile(operation, dynamic=True)


def _sums(logits: Tensor, largest: Tensor, inverse_temperature: Tensor, powers: int) -> list[Tensor]:
    d = (logits.to(largest.dtype) * inverse_temperature - largest.unsqueeze(-1)).clamp(min=LOWEST)
    e = d.exp()
    power, sums = e, []
    for _ in range(powers):
        sums += [power.sum(-1), (power * d).sum(-1)]
        power = power * e
    return sums


def _softmax(out: Tensor, logits: Tensor, normalizer: Tensor, scale: Tensor, inverse_temperature: Tensor) -> None:
    z = logits.to(normalizer.dtype) * inverse_temperature
    out.copy_((z - normalizer.unsqueeze(-1)).exp() * scale.unsqueeze(-1))


def _sums_of_matrix(logits: Tensor, inverse_temperature: Tensor, powers: int) -> tuple[Tensor, Tensor]:
    m = logits.amax(-1).to(inverse_temperature.dtype) * inverse_temperature
    parts = logits.tensor_split(-(-logits.shape[-1] // PART), -1)
    with torch._dynamo.config.patch(recompile_limit=VARIANTS):
        sums = (_compiled(_sums)(_no_view(part), m, inverse_temperature, powers) for part in parts)
        return m, sum(torch.stack(part).double() for part in sums)


def _softmax_of_matrix(out: Tensor, logits: Tensor, normalizer: Tensor, scale: Tensor, inverse: Tensor) -> None:
    places = _no_view(out)
    with torch._dynamo.config.patch(recompile_limit=VARIANTS):
        _compiled(_softmax)(places, places if out is logits else _no_view(logits), normalizer, scale, inverse)


def _no_view(matrix: Tensor) -> Tensor:
    """The same matrix as a tensor of its own: code for a view would be made anew for each shape of what it views."""
    own = torch.empty(0, dtype=matrix.dtype, device=matrix.device)
    step = matrix.stride(0) if len(matrix) > 1 else matrix.shape[1]  # that of a single row says nothing
    return own.set_(matrix.untyped_storage(), matrix.storage_offset(), matrix.shape, (step, matrix.stride(1)))
