"""The statistics of sampled tokens straight from hidden states and the output head, without the (T, V) logits.

The head is applied to a few thousand words of the vocabulary at a time. Of each chunk of logits only the vocabulary
sums stay, all brought to one largest logit; backward makes the chunks once more.
"""

import torch
from torch import Tensor

from entropy_dynamics.backends import select
from entropy_dynamics.theory import check_largest, check_tokens
from entropy_dynamics.token_statistics import TokenStatistics, check_temperature, from_sums
from entropy_dynamics.vocabulary_sums import LOWEST, Backend, accumulator

CHUNK_ELEMENTS = 2**19  # logits at once
MULTIPLIED_AT_ONCE = 512  # words; narrow products are a few percent faster on a CPU
SMALLEST_CHUNK = 1536  # words of the vocabulary at once, however many states there are


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
        bias: (V,), of the same dtype. Under autocast all three are cast, as by `torch.nn.functional.linear`.
        temperature, backend, curvature: as in `token_statistics`.

    Returns:
        `TokenStatistics`; gradient flows to `hidden`, `weight` and `bias` through `log_prob` alone.

    Raises:
        ValueError: shapes or dtypes that do not fit together, and whatever `token_statistics` refuses.
    """
    hidden, weight, bias = checked_head(hidden, weight, bias, tokens, temperature)
    chosen = select(backend, elements=tokens.numel() * len(weight), device=hidden.device)
    hidden, k = hidden.reshape(-1, hidden.shape[-1]), tokens.reshape(-1).long()
    with torch.no_grad():
        z_k, largest, sums = _one_pass(hidden, weight, bias, k, temperature, 3 if curvature else 2, chosen)
    check_largest(largest)
    log_prob = _LogProb.apply(hidden, weight, bias, k, z_k, largest, sums[0].log(), temperature, chosen)
    return TokenStatistics(*(x if x is None else x.view(tokens.shape) for x in from_sums(log_prob, sums)))


def checked_head(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Hidden states, head and bias as a linear layer would take them, under autocast in its dtype unless float64.

    Raises:
        ValueError: what `linear_token_statistics` refuses before it looks at values.
    """
    check_temperature(temperature)
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight, bias = (x if x is None else x.to(dtype) for x in (hidden, weight, bias))
    _check_head(hidden, weight, bias)
    check_tokens(tokens, hidden[..., :1].expand(*hidden.shape[:-1], len(weight)))
    return hidden, weight, bias


def _check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if not hidden.is_floating_point() or hidden.ndim == 0 or weight.shape[1:] != hidden.shape[-1:] or not len(weight):
        raise ValueError(
            f"hidden must be floating (..., W) and weight (V, W), got {hidden.dtype} of shape {tuple(hidden.shape)} "
            f"and {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}, expected {tuple(weight.shape[:1])}: one value per word")
    for name, x in {"weight": weight, "bias": bias}.items():
        if x is not None and x.dtype != hidden.dtype:
            raise ValueError(f"{name} is {x.dtype}, expected {hidden.dtype} as hidden; bring both to one dtype")


def _chunks(states: int, vocabulary: int) -> list[slice]:
    size = max(SMALLEST_CHUNK, CHUNK_ELEMENTS // max(states, 1))
    return [slice(start, min(start + size, vocabulary)) for start in range(0, vocabulary, size)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk: slice, memory: Tensor) -> Tensor:
    """The logits (T, C) of a chunk of the vocabulary, in `memory`."""
    size = chunk.stop - chunk.start
    out = memory[: len(hidden) * size].view(len(hidden), size)
    for start in range(0, size, MULTIPLIED_AT_ONCE):
        part = slice(start, start + MULTIPLIED_AT_ONCE)
        torch.mm(hidden, weight[chunk][part].T, out=out[:, part])
    if bias is not None:
        out += bias[chunk]
    return out


def _inside(tokens: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
    """Which tokens lie in a chunk, and where in it."""
    states = ((tokens >= chunk.start) & (tokens < chunk.stop)).nonzero().squeeze(-1)
    return states, tokens[states] - chunk.start


def _one_pass(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    temperature: float,
    powers: int,
    backend: Backend,
) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens' logits over the temperature (T,), the largest ones (T,), and the vocabulary sums (2 powers, T)."""
    chunks = _chunks(len(hidden), len(weight))
    memory = hidden.new_empty(len(hidden) * chunks[0].stop)
    z_k = hidden.new_empty(tokens.shape, dtype=accumulator(hidden.dtype))
    largest, sums = z_k.new_empty((len(chunks), *tokens.shape)), z_k.new_empty((len(chunks), 2 * powers, *tokens.shape))
    for number, chunk in enumerate(chunks):
        logits = _logits(hidden, weight, bias, chunk, memory)
        largest[number], sums[number] = backend.vocabulary_sums(logits, temperature, powers)
        states, places = _inside(tokens, chunk)
        z_k[states] = logits[states, places].to(z_k.dtype) / temperature
    return z_k, *_together(largest, sums)


def _together(largest: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
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


class _LogProb(torch.autograd.Function):
    """log p of the tokens; keeps hidden states and head for backward, which are there anyway."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, tokens, z_k, largest, log_s, temperature, backend: Backend):
        ctx.save_for_backward(hidden, weight, bias, tokens, z_k, largest + log_s)
        ctx.temperature, ctx.backend = temperature, backend
        return z_k - largest - log_s

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_log_prob):
        # With G = scale (e_k - p), the gradients are G weight, G^T hidden and the sum of G over states.
        hidden, weight, bias, tokens, z_k, normalizer = ctx.saved_tensors
        scale = grad_log_prob / ctx.temperature
        at_token = scale - scale * (z_k - normalizer).exp()
        of_hidden = hidden.new_zeros(hidden.shape, dtype=scale.dtype) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        of_bias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
        chunks = _chunks(len(hidden), len(weight))
        memory = hidden.new_empty(len(hidden) * chunks[0].stop)
        for chunk in chunks:
            grad = _logits(hidden, weight, bias, chunk, memory)
            ctx.backend.scaled_softmax(grad, grad, normalizer, -scale, ctx.temperature)
            states, places = _inside(tokens, chunk)
            grad[states, places] = at_token[states].to(grad.dtype)
            if of_hidden is not None:
                if grad.dtype == of_hidden.dtype:
                    of_hidden.addmm_(grad, weight[chunk])
                else:
                    of_hidden += grad @ weight[chunk]
            if of_weight is not None:
                torch.mm(grad.T, hidden, out=of_weight[chunk])
            if of_bias is not None:
                of_bias[chunk] = grad.sum(0)
        of_hidden = None if of_hidden is None else of_hidden.to(hidden.dtype)
        return of_hidden, of_weight, of_bias, *(None,) * 6
