"""The one pass over the vocabulary in plain torch: sums from which every token statistic follows, and softmax.

With z the logits over the temperature, m the largest of a state, d_i = z_i - m and e_i = exp(d_i), the sums are sum e^j
and sum e^j d for the powers j = 1, 2 (all that log-probability, entropy and baseline need) or j = 1, 2, 3 (the second
order of the entropy change needs the cubes, too).
"""

import logging
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**18  # logits in work at once: a megabyte or so of scratch, whatever the batch
LOWEST = -1e4  # stands for d = -inf: its exponential is 0 in every dtype, and e d is 0, too, not NaN

_log = logging.getLogger(__name__)


class Backend(NamedTuple):
    """Two operations on logits of any shape (..., V) and strides.

    vocabulary_sums(logits, temperature, powers): m (...), and the sums (2 powers, ...) in the order sum e, sum e d,
        sum e^2, sum e^2 d, ...; in float32, or float64 for float64 logits. NaN and infinity show in m.
    scaled_softmax(out, logits, normalizer, scale, temperature): out = scale exp(z - normalizer), where normalizer, the
        log of sum exp z, and scale are (...); out may be the logits themselves.
    """

    vocabulary_sums: Callable[[Tensor, float, int], tuple[Tensor, Tensor]]
    scaled_softmax: Callable[[Tensor, Tensor, Tensor, Tensor, float], None]


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics: float64 for float64 logits, float32 for all others."""
    return torch.promote_types(dtype, torch.float32)


def _vocabulary_sums(logits: Tensor, temperature: float, powers: int) -> tuple[Tensor, Tensor]:
    dtype = accumulator(logits.dtype)
    largest = logits.new_empty(logits.shape[:-1], dtype=dtype)
    sums = logits.new_empty((2 * powers, *logits.shape[:-1]), dtype=dtype)
    with torch.autocast(logits.device.type, enabled=False):  # which would take the products in half precision
        _fill(largest, sums, logits, temperature)
    return largest, sums


def _fill(largest: Tensor, sums: Tensor, logits: Tensor, temperature: float) -> None:
    for block in _blocks(logits.shape):
        z = logits[block].to(sums.dtype) / temperature
        m = z.amax(-1, keepdim=True)
        d = z.sub_(m).clamp_(min=LOWEST)
        e = d.exp()
        largest[block] = m.squeeze(-1)
        sums[0][block], sums[1][block] = e.sum(-1), torch.linalg.vecdot(e, d)
        power = e
        for j in range(1, len(sums) // 2):
            sums[2 * j][block] = torch.linalg.vecdot(power, e)
            power = power * e
            sums[2 * j + 1][block] = torch.linalg.vecdot(power, d)


def together(largest: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Largest logits (T,) and sums (2 powers, T) of the vocabulary from its chunks' (n, T) and (n, 2 powers, T).

    Where each d falls by g, sum e^j becomes exp(-j g) sum e^j, and sum e^j d becomes
    exp(-j g) (sum e^j d - g sum e^j).
    """
    together = largest.amax(0)
    gap = (together - largest).double().clamp(max=-LOWEST).unsqueeze(1)
    sums = sums.double().where(largest.unsqueeze(1) > -torch.inf, 0.0)  # a chunk of masked words only has none
    plain, weighted = sums[:, ::2], sums[:, 1::2]
    powers = torch.arange(1, plain.shape[1] + 1, device=sums.device).unsqueeze(-1)
    factors = (-powers * gap).exp()
    moved = torch.stack((factors * plain, factors * (weighted - gap * plain)), 2)
    return together, moved.sum(0).flatten(0, 1).to(largest.dtype)


def _scaled_softmax(out: Tensor, logits: Tensor, normalizer: Tensor, scale: Tensor, temperature: float) -> None:
    for block in _blocks(logits.shape):
        z = logits[block].to(normalizer.dtype) / temperature
        out[block] = z.sub_(normalizer[block].unsqueeze(-1)).exp_().mul_(scale[block].unsqueeze(-1))


EAGER = Backend(_vocabulary_sums, _scaled_softmax)


def from_matrices(
    name: str,
    sums_of_matrix: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]],
    softmax_of_matrix: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None],
) -> Backend:
    """A backend made of the same two operations on matrices (T, V) of any strides.

    Where one fails (no compiler, a cache folder that cannot be written, at the first call or at a later dtype), plain
    torch serves from then on, and a line in the log says so.

    Args:
        name: who compiles the operations, for that line.
        sums_of_matrix: (logits, 1 / temperature, powers) -> m (T,) and the sums (2 powers, T).
        softmax_of_matrix: (out, logits, normalizer (T,), scale (T,), 1 / temperature); out may be the logits.
    """
    works = True

    def attempt(operation: Callable, plain: Callable, *arguments):
        nonlocal works
        if works:
            try:
                return operation(*arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a missing or broken compiler raises
                works = False
                reason = " ".join(str(error).split("\n")[:2]).strip()  # the first line may only say who raised what
                _log.warning("%s does not work here (%s: %s); eager is used", name, type(error).__name__, reason)
        return plain(*arguments)

    def vocabulary_sums(logits: Tensor, temperature: float, powers: int) -> tuple[Tensor, Tensor]:
        dtype = accumulator(logits.dtype)
        largest = logits.new_empty(logits.shape[:-1], dtype=dtype)
        sums = logits.new_empty((2 * powers, *logits.shape[:-1]), dtype=dtype)
        inverse = torch.tensor(1 / temperature, dtype=dtype, device=logits.device)
        for index in _matrices(logits):
            m, part = attempt(sums_of_matrix, _plain_sums, logits[index].view(-1, logits.shape[-1]), inverse, powers)
            largest[index] = m.view(largest[index].shape)
            sums[:, *index] = part.view(sums[:, *index].shape)
        return largest, sums

    def scaled_softmax(out: Tensor, logits: Tensor, normalizer: Tensor, scale: Tensor, temperature: float) -> None:
        inverse = torch.tensor(1 / temperature, dtype=normalizer.dtype, device=logits.device)
        for index in _matrices(logits):
            places = out[index].view(-1, out.shape[-1])
            rows = places if out is logits else logits[index].view(-1, logits.shape[-1])
            of_rows = normalizer[index].reshape(-1), scale[index].reshape(-1)
            attempt(softmax_of_matrix, _plain_softmax, places, rows, *of_rows, inverse)

    return Backend(vocabulary_sums, scaled_softmax)


def _plain_sums(logits: Tensor, inverse_temperature: Tensor, powers: int) -> tuple[Tensor, Tensor]:
    return _vocabulary_sums(logits, 1 / inverse_temperature.item(), powers)


def _plain_softmax(out: Tensor, logits: Tensor, normalizer: Tensor, scale: Tensor, inverse: Tensor) -> None:
    _scaled_softmax(out, logits, normalizer, scale, 1 / inverse.item())


def _matrices(logits: Tensor) -> Iterator[tuple[int, ...]]:
    """Indices of the leading axes that cut (..., V) into as few parts as can be viewed as matrices (states, V)."""
    if logits.numel() == 0:
        return
    try:
        logits.view(-1, logits.shape[-1])
    except RuntimeError:  # its strides do not allow that
        for first in range(len(logits)):
            yield from ((first, *rest) for rest in _matrices(logits[first]))
    else:
        yield ()


def _blocks(shape: torch.Size) -> Iterator[tuple[int | slice, ...]]:
    """Indices of the leading axes that cut (..., V) into views of at most `CHUNK_ELEMENTS`, or one state each."""
    *leading, vocabulary = shape
    states = max(1, CHUNK_ELEMENTS // vocabulary)
    if math.prod(leading) <= states:
        yield ()
    elif (inner := math.prod(leading[1:])) >= states:
        for first in range(leading[0]):
            yield from ((first, *rest) for rest in _blocks(shape[1:]))
    else:
        step = states // inner
        yield from ((slice(start, start + step),) for start in range(0, leading[0], step))
