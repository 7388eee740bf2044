"""The statistics of sampled tokens straight from hidden states and the output head, without the (T, V) logits.

The head is applied to a few thousand words of the vocabulary at a time; of each chunk of logits only the vocabulary
sums are kept, brought to a common largest logit. Backward makes the chunks once more.
"""

import torch
from torch import Tensor

from entropy_dynamics.backends import LOWEST, Backend, accumulator, select
from entropy_dynamics.theory import check_largest, check_tokens
from entropy_dynamics.token_statistics import TokenStatistics, check_temperature, from_sums

CHUNK_ELEMENTS = 2**20  # logits at once
SMALLEST_CHUNK = 1024  # words of the vocabulary at once, however many states there are


def linear_token_statistics(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    backend: str = "auto",
    curvature: bool = False,
) -> TokenStatistics:
    """`token_statistics` of the logits hidden weight^T + bias, which never exist as a whole.

    Args:
        hidden: (..., W), the last hidden states; floating.
        weight: (V, W), the output head, of the same dtype.
        tokens: (...), integer indices into the vocabulary.
        bias: (V,), of the same dtype.
        temperature, backend, curvature: as in `token_statistics`.

    Returns:
        `TokenStatistics`; gradient flows to `hidden`, `weight` and `bias` through `log_prob` alone.

    Raises:
        ValueError: shapes or dtypes that do not fit together, and whatever `token_statistics` refuses.
    """
    check_temperature(temperature)
    if not hidden.is_floating_point() or hidden.ndim == 0 or weight.shape[1:] != hidden.shape[-1:] or not len(weight):
        raise ValueError(
            f"hidden must be floating (..., W) and weight (V, W), got {hidden.dtype} of shape {tuple(hidden.shape)} "
            f"and {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}, expected {tuple(weight.shape[:1])}: one value per word")
    if len({x.dtype for x in (hidden, weight, bias) if x is not None}) > 1:
        raise ValueError(f"hidden is {hidden.dtype}, weight {weight.dtype}; bring them to one dtype")
    check_tokens(tokens, hidden[..., :1].expand(*hidden.shape[:-1], len(weight)))
    chosen = select(backend, elements=tokens.numel() * len(weight), device=hidden.device)
    states, k = hidden.reshape(-1, hidden.shape[-1]), tokens.reshape(-1).long()
    largest, sums, z_k = _pass(
        *(None if x is None else x.detach() for x in (states, weight, bias)),
        k,
        temperature,
        3 if curvature else 2,
        chosen,
    )
    check_largest(largest)
    log_prob = _LogProb.apply(states, weight, bias, k, z_k, largest, sums[0].log(), temperature, chosen)
    statistics = from_sums(log_prob, sums)
    return TokenStatistics(*(x if x is None else x.view(tokens.shape) for x in statistics))


def _chunks(states: int, vocabulary: int) -> list[slice]:
    size = max(SMALLEST_CHUNK, CHUNK_ELEMENTS // max(states, 1))
    return [slice(start, min(start + size, vocabulary)) for start in range(0, vocabulary, size)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk: slice, memory: Tensor) -> Tensor:
    """The logits (T, C) of a chunk of the vocabulary, in `memory`; word by word, which multiplies faster."""
    out = memory[: len(hidden) * (chunk.stop - chunk.start)].view(-1, len(hidden))
    if bias is None:
        return torch.mm(weight[chunk], hidden.T, out=out).T
    return torch.addmm(bias[chunk, None], weight[chunk], hidden.T, out=out).T


def _pass(hidden, weight, bias, tokens, temperature, powers, backend) -> tuple[Tensor, Tensor, Tensor]:
    """Largest logit (T,), vocabulary sums (2 powers, T), and the tokens' own logits (T,), over the temperature."""
    dtype = accumulator(hidden.dtype)
    largest = hidden.new_full(tokens.shape, -torch.inf, dtype=dtype)
    sums = hidden.new_zeros((2 * powers, *tokens.shape), dtype=torch.float64)
    z_k = hidden.new_empty(tokens.shape, dtype=dtype)
    chunks = _chunks(len(hidden), len(weight))
    memory = hidden.new_empty(len(hidden) * chunks[0].stop)
    for chunk in chunks:
        z = _logits(hidden, weight, bias, chunk, memory)
        m, part = backend.vocabulary_sums(z, temperature, powers)
        together = torch.maximum(largest, m)
        sums = _rescaled(sums, largest, together) + _rescaled(part.double(), m, together)
        largest = together
        here = (tokens >= chunk.start) & (tokens < chunk.stop)
        z_k[here] = z[here].gather(-1, tokens[here, None] - chunk.start).squeeze(-1).to(dtype)
    return largest, sums.to(dtype), z_k / temperature


def _rescaled(sums: Tensor, largest: Tensor, larger: Tensor) -> Tensor:
    """Sums relative to one largest logit, as they are relative to a larger one: d falls by the gap."""
    gap = (largest - larger).double().clamp(min=LOWEST)
    out = torch.empty_like(sums)
    for j in range(len(sums) // 2):
        factor = ((j + 1) * gap).exp()
        out[2 * j] = factor * sums[2 * j]
        out[2 * j + 1] = factor * (sums[2 * j + 1] + gap * sums[2 * j])
    return out


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, tokens, z_k, largest, log_s, temperature, backend: Backend):
        ctx.save_for_backward(hidden, weight, bias, tokens, z_k, largest + log_s)
        ctx.temperature, ctx.backend = temperature, backend
        return z_k - largest - log_s

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_log_prob):
        hidden, weight, bias, tokens, z_k, normalizer = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        scale = grad_log_prob / ctx.temperature
        at_token = scale - scale * (z_k - normalizer).exp()
        grad_hidden = torch.zeros_like(hidden, dtype=scale.dtype) if needs_hidden else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        grad_bias = torch.empty_like(bias) if needs_bias else None
        chunks = _chunks(len(hidden), len(weight))
        memory = hidden.new_empty(len(hidden) * chunks[0].stop)
        for chunk in chunks:
            z = _logits(hidden, weight, bias, chunk, memory)
            grad = z
            ctx.backend.scaled_softmax(grad, z, normalizer, -scale, ctx.temperature)
            here = ((tokens >= chunk.start) & (tokens < chunk.stop)).nonzero().squeeze(-1)
            grad[here, tokens[here] - chunk.start] = at_token[here].to(grad.dtype)
            if needs_hidden:
                if grad.dtype == grad_hidden.dtype:
                    grad_hidden.addmm_(grad, weight[chunk])
                else:
                    grad_hidden += grad @ weight[chunk]
            if needs_weight:
                torch.mm(grad.T, hidden, out=grad_weight[chunk])
            if needs_bias:
                grad_bias[chunk] = grad.sum(0)
        return grad_hidden.to(hidden.dtype) if needs_hidden else None, grad_weight, grad_bias, *[None] * 6
