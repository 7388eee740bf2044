"""The vocabulary sums from a single read of the logits, and the softmax, as Triton kernels."""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from entropy_dynamics.vocabulary_sums import LOWEST, Backend, from_matrices

BLOCK = 4096  # logits of one state in registers at once


def triton_backend(device: torch.device) -> Backend:
    """The Triton backend.

    Raises:
        ValueError: the device is not CUDA, and Triton's interpreter (TRITON_INTERPRET=1) is not on.
    """
    if device.type != "cuda" and not knobs.runtime.interpret:
        raise ValueError(f"backend 'triton' needs logits on a CUDA device, these are on {device}; choose 'auto'")
    return _backend()


@cache
def _backend() -> Backend:
    return from_matrices("triton", _sums_of_matrix, _softmax_of_matrix)


@triton.jit
def _sums(
    logits_ptr, inverse_ptr, largest_ptr, sums_ptr, row_stride, column_stride, states, vocabulary,
    CUBES: tl.constexpr, LOWEST: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """One program a state: block by block, with the sums so far rescaled whenever a larger logit turns up."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inverse = tl.load(inverse_ptr)
    m = tl.full((), -float("inf"), DTYPE)
    s = tl.zeros((), DTYPE)
    u = tl.zeros((), DTYPE)
    v = tl.zeros((), DTYPE)
    w = tl.zeros((), DTYPE)
    x = tl.zeros((), DTYPE)
    y = tl.zeros((), DTYPE)
    for start in range(0, vocabulary, BLOCK):
        inside = start + columns < vocabulary
        place = logits_ptr + row * row_stride + (start + columns).to(tl.int64) * column_stride
        z = tl.load(place, mask=inside, other=-float("inf")).to(DTYPE) * inverse
        larger = tl.maximum(m, tl.max(z, 0))
        # Before the first finite logit every sum is 0, and so is every product with it.
        gap = tl.where(m > -float("inf"), tl.maximum(m - larger, LOWEST), LOWEST)
        f = tl.exp(gap)
        y = f * f * f * (y + gap * x)
        x = f * f * f * x
        w = f * f * (w + gap * v)
        v = f * f * v
        u = f * (u + gap * s)
        s = f * s
        m = larger
        d = tl.where(z > -float("inf"), tl.maximum(z - m, LOWEST), LOWEST)
        d = tl.where(z == z, d, z)  # a NaN stays one
        e = tl.exp(d)
        s += tl.sum(e, 0)
        u += tl.sum(e * d, 0)
        v += tl.sum(e * e, 0)
        w += tl.sum(e * e * d, 0)
        if CUBES:
            x += tl.sum(e * e * e, 0)
            y += tl.sum(e * e * e * d, 0)
    # Where m is +inf the sums are NaN or not, as the Triton version takes the maximum of NaN and a number.
    tl.store(largest_ptr + row, tl.where((s == s) | (m == float("inf")), m, s))
    tl.store(sums_ptr + row, s)
    tl.store(sums_ptr + states + row, u)
    tl.store(sums_ptr + 2 * states + row, v)
    tl.store(sums_ptr + 3 * states + row, w)
    if CUBES:
        tl.store(sums_ptr + 4 * states + row, x)
        tl.store(sums_ptr + 5 * states + row, y)


@triton.jit
def _softmax(
    out_ptr, logits_ptr, inverse_ptr, normalizer_ptr, scale_ptr,
    out_row_stride, out_column_stride, row_stride, column_stride, vocabulary,
    BLOCK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    inside = columns < vocabulary
    logits = tl.load(logits_ptr + row * row_stride + columns * column_stride, mask=inside, other=0.0).to(DTYPE)
    d = logits * tl.load(inverse_ptr) - tl.load(normalizer_ptr + row)
    value = tl.load(scale_ptr + row) * tl.exp(d)
    place = out_ptr + row * out_row_stride + columns * out_column_stride
    tl.store(place, value.to(out_ptr.dtype.element_ty), mask=inside)


def _sums_of_matrix(logits: Tensor, inverse_temperature: Tensor, powers: int) -> tuple[Tensor, Tensor]:
    states, vocabulary = logits.shape
    m, sums = inverse_temperature.new_empty(states), inverse_temperature.new_empty((2 * powers, states))
    with torch.cuda.device_of(logits):
        _sums[(states,)](
            logits, inverse_temperature, m, sums, *logits.stride(), states, vocabulary,
            powers == 3, LOWEST, _block(vocabulary), _triton_dtype(m.dtype),
        )  # fmt: skip
    return m, sums


def _softmax_of_matrix(out: Tensor, logits: Tensor, normalizer: Tensor, scale: Tensor, inverse: Tensor) -> None:
    states, vocabulary = logits.shape
    block = _block(vocabulary)
    with torch.cuda.device_of(logits):
        _softmax[(states, triton.cdiv(vocabulary, block))](
            out, logits, inverse, normalizer.contiguous(), scale.contiguous(), *out.stride(), *logits.stride(),
            vocabulary, block, _triton_dtype(normalizer.dtype),
        )  # fmt: skip


def _block(vocabulary: int) -> int:
    return min(BLOCK, triton.next_power_of_2(vocabulary))


def _triton_dtype(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32
