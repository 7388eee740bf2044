"""The statistics of sampled tokens straight from hidden states and the output head, without the (T, V) logits.

The head is applied to a few thousand words of the vocabulary at a time. Of each chunk of logits only the vocabulary
sums stay, all brought to one largest logit; backward makes the chunks once more.
"""

import math

import torch
from torch import Tensor

from entropy_dynamics.backends import select
from entropy_dynamics.operators import differentiable, operator
from entropy_dynamics.theory import check_largest, check_shape, check_tokens
from entropy_dynamics.token_statistics import TokenStatistics, check_temperature, from_sums
from entropy_dynamics.vocabulary_sums import accumulator, together

CHUNK_ELEMENTS = 2**19  # logits at once
MULTIPLIED_AT_ONCE = 512  # words; narrow products are a few percent faster on a CPU
SMALLEST_CHUNK = 1536  # words of the vocabulary at once, however many states there are


def linear_token_statistics(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    backend: str = "auto",
    curvature: bool = False,
) -> TokenStatistics:
    """`token_statistics` of the logits scale (hidden weight^T + bias), which never exist as a whole.

    Args:
        hidden: (..., W), the last hidden states; floating.
        weight: (V, W), the output head, of the same dtype.
        tokens: (...), integer indices into the vocabulary.
        bias: (V,), of the same dtype. Under autocast all three are cast, as by `torch.nn.functional.linear`.
        scale: of the logits, as Cohere's and Granite's heads have it; positive.
        softcap: c in c tanh(z / c) of these logits z, as Gemma 2's head has it; positive, None for none.
        temperature, backend, curvature: as in `token_statistics`.

    Returns:
        `TokenStatistics`; gradient flows to `hidden`, `weight` and `bias` through `log_prob` alone.

    Raises:
        ValueError: shapes or dtypes that do not fit together, and whatever `token_statistics` refuses.
    """
    hidden, weight, bias = checked_head(hidden, weight, bias, tokens, temperature)
    for name, x in {"scale": scale, "softcap": softcap}.items():
        if x is not None and not 0 < x < math.inf:
            raise ValueError(f"{name} is {x}, expected a positive finite number")
    hidden, k = hidden.reshape(-1, hidden.shape[-1]), tokens.reshape(-1)
    how = (scale, softcap, temperature, backend)
    inputs = [x if x is None else x.detach() for x in (hidden, weight, bias)]
    z_k, largest, sums = _linear_token_sums(*inputs, k, *how, 3 if curvature else 2)
    log_prob = _linear_log_prob(hidden, weight, bias, k, z_k, largest, sums[0].log(), *how)
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
    check_shape(tokens, hidden)
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


def _logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    chunk: slice,
    memory: Tensor,
) -> Tensor:
    """The logits (T, C) of a chunk of the vocabulary, in `memory`."""
    size = chunk.stop - chunk.start
    out = memory[: len(hidden) * size].view(len(hidden), size)
    for start in range(0, size, MULTIPLIED_AT_ONCE):
        part = slice(start, start + MULTIPLIED_AT_ONCE)
        torch.mm(hidden, weight[chunk][part].T, out=out[:, part])
    if bias is not None:
        out += bias[chunk]
    if scale != 1:
        out *= scale
    return out if softcap is None else out.div_(softcap).tanh_().mul_(softcap)


def _inside(tokens: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
    """Which tokens lie in a chunk, and where in it."""
    states = ((tokens >= chunk.start) & (tokens < chunk.stop)).nonzero().squeeze(-1)
    return states, tokens[states] - chunk.start


def _like_sums(hidden, weight, bias, tokens, scale, softcap, temperature, backend, powers):
    of_token = hidden.new_empty(tokens.shape, dtype=accumulator(hidden.dtype))
    return of_token, torch.empty_like(of_token), of_token.new_empty((2 * powers, *tokens.shape))


@operator(
    "linear_token_sums(Tensor hidden, Tensor weight, Tensor? bias, Tensor tokens, float scale, float? softcap, "
    "float temperature, str backend, int powers) -> (Tensor, Tensor, Tensor)",
    fake=_like_sums,
)
def _linear_token_sums(hidden, weight, bias, tokens, scale, softcap, temperature, backend, powers):
    """The tokens' logits over the temperature (T,), the largest ones (T,), and the vocabulary sums (2 powers, T)."""
    check_tokens(tokens, hidden[:, :1].expand(-1, len(weight)))
    chosen = select(backend, elements=len(tokens) * len(weight), device=hidden.device)
    chunks = _chunks(len(hidden), len(weight))
    memory = hidden.new_empty(len(hidden) * chunks[0].stop)
    z_k = hidden.new_empty(tokens.shape, dtype=accumulator(hidden.dtype))
    largest, sums = z_k.new_empty((len(chunks), *tokens.shape)), z_k.new_empty((len(chunks), 2 * powers, *tokens.shape))
    for number, chunk in enumerate(chunks):
        logits = _logits(hidden, weight, bias, scale, softcap, chunk, memory)
        largest[number], sums[number] = chosen.vocabulary_sums(logits, temperature, powers)
        states, places = _inside(tokens.long(), chunk)
        z_k[states] = logits[states, places].to(z_k.dtype) / temperature
    largest, sums = together(largest, sums)
    check_largest(largest)
    return z_k, largest, sums


@operator(
    "linear_log_prob(Tensor hidden, Tensor weight, Tensor? bias, Tensor tokens, Tensor z_k, Tensor largest, "
    "Tensor log_s, float scale, float? softcap, float temperature, str backend) -> Tensor",
    fake=lambda hidden, weight, bias, tokens, z_k, *others: torch.empty_like(z_k),
)
def _linear_log_prob(hidden, weight, bias, tokens, z_k, largest, log_s, scale, softcap, temperature, backend):
    """log p of the tokens; keeps hidden states and head for backward, which are there anyway."""
    return z_k - largest - log_s


def _like_inputs(grad, hidden, weight, bias, *others):
    return torch.empty_like(hidden), torch.empty_like(weight), hidden.new_empty(len(weight))


@operator(
    "linear_log_prob_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor? bias, Tensor tokens, Tensor z_k, "
    "Tensor normalizer, float scale, float? softcap, float temperature, str backend, bool[] wanted) "
    "-> (Tensor, Tensor, Tensor)",
    fake=lambda grad, hidden, weight, bias, tokens, z_k, normalizer, scale, softcap, temperature, backend, wanted: [
        x if want else x.new_empty(0) for x, want in zip(_like_inputs(grad, hidden, weight, bias), wanted)
    ],
)
def _linear_log_prob_backward(
    grad, hidden, weight, bias, tokens, z_k, normalizer, scale, softcap, temperature, backend, wanted
):
    """Of hidden states, head and bias: with G = scale (e_k - p), G weight, G^T hidden and the sum of G over states."""
    of_logits = grad / temperature
    at_token = of_logits - of_logits * (z_k - normalizer).exp()
    of_hidden = hidden.new_zeros(hidden.shape if wanted[0] else 0, dtype=of_logits.dtype)
    of_weight, of_bias = weight.new_empty(weight.shape if wanted[1] else 0), weight.new_empty(len(weight) * wanted[2])
    chosen = select(backend, elements=len(tokens) * len(weight), device=hidden.device)
    chunks = _chunks(len(hidden), len(weight))
    memory = hidden.new_empty(len(hidden) * chunks[0].stop)
    for chunk in chunks:
        out = _logits(hidden, weight, bias, scale, softcap, chunk, memory)
        slope = None if softcap is None else (1 - (out / softcap) ** 2)
        chosen.scaled_softmax(out, out, normalizer, -of_logits, temperature)
        states, places = _inside(tokens.long(), chunk)
        out[states, places] = at_token[states].to(out.dtype)
        if slope is not None:
            out *= slope
        if scale != 1:
            out *= scale
        if wanted[0] and out.dtype == of_hidden.dtype:
            of_hidden.addmm_(out, weight[chunk])
        elif wanted[0]:
            of_hidden += out @ weight[chunk]
        if wanted[1]:
            torch.mm(out.T, hidden, out=of_weight[chunk])
        if wanted[2]:
            of_bias[chunk] = out.sum(0)
    return of_hidden.to(hidden.dtype), of_weight, of_bias


def _keep(ctx, inputs, output):
    hidden, weight, bias, tokens, z_k, largest, log_s, *ctx.how = inputs
    ctx.save_for_backward(hidden, weight, bias, tokens, z_k, largest + log_s)


def _backward(ctx, grad):
    wanted = list(ctx.needs_input_grad[:3])
    found = _linear_log_prob_backward(grad, *ctx.saved_tensors, *ctx.how, wanted)
    return *(x if want else None for x, want in zip(found, wanted)), *(None,) * 8


differentiable(_linear_log_prob, keep=_keep, backward=_backward)
