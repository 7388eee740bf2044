"""From logits and sampled tokens to the per-token statistics that every method here is built on.

One pass over the vocabulary yields all four. With m the largest logit of a state, d_i = z_i - m and
e_i = exp(d_i), four sums suffice: s = sum e, u = sum e d, v = sum e^2, w = sum e^2 d. Then
    log p_k = d_k - log s        H = log s - u / s        E_p[S] = (w - v u / s) / s^2.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from entropy_dynamics.theory import check_largest, check_tokens

CHUNK_ELEMENTS = 2**18  # logits in work at once: a megabyte or so of scratch, whatever the batch


class TokenStatistics(NamedTuple):
    """Statistics of one sampled token per state; every field has the shape of `tokens` and is in nats."""

    log_prob: Tensor  # log p_k of the sampled token k; the only field that carries gradient
    entropy: Tensor  # H of the state, 0 to log V
    discriminator: Tensor  # S_* = p_k (H + log p_k), at least -0.2239
    baseline: Tensor  # E_p[S], never negative

    @property
    def centred(self) -> Tensor:
        """D = S_* - E_p[S], whose negative is the entropy change per unit of effective step (Theorem 3.3)."""
        return self.discriminator - self.baseline


def token_statistics(
    logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, backend: str = "auto"
) -> TokenStatistics:
    """Log-probability, entropy, discriminator and baseline of `tokens` under softmax(logits / temperature).

    Args:
        logits: (..., V), floating; bfloat16 and float16 are accumulated in float32 and return float32.
        tokens: (...), integer indices into the vocabulary.
        temperature: the sampling temperature, positive and finite; the statistics are those of the policy at it.
        backend: "eager", or "auto" for the fastest that suits the input.

    Returns:
        `TokenStatistics`; gradient flows to `logits` through `log_prob` alone. A token of zero mass
        has log_prob -inf and S = 0.

    Raises:
        ValueError: NaN, +inf or no finite logit in a state; tokens of another shape or outside the
            vocabulary; a temperature that is not positive and finite; an unknown backend.
    """
    if backend not in ("auto", *_BACKENDS):
        raise ValueError(f"unknown backend {backend!r}; choose from {', '.join(('auto', *_BACKENDS))}")
    if isinstance(temperature, Tensor) or not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature is {temperature}, expected a positive finite number")
    if not logits.is_floating_point() or logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must be floating and (..., V), got {logits.dtype} of shape {tuple(logits.shape)}")
    check_tokens(tokens, logits)
    compute = _BACKENDS["eager" if backend == "auto" else backend]
    log_prob, entropy, baseline = _Statistics.apply(logits, tokens.long(), temperature, compute)
    probability = log_prob.detach().exp()
    # A token of zero mass has log p = -inf; p log p is 0 there, not NaN.
    discriminator = torch.where(probability > 0, probability * (entropy + log_prob.detach()), 0.0)
    return TokenStatistics(log_prob, entropy, discriminator, baseline)


class _Statistics(torch.autograd.Function):
    """(logits, tokens) -> log_prob, entropy, baseline; keeps the logits for backward, never the probabilities."""

    @staticmethod
    def forward(ctx, logits, tokens, temperature, compute):
        log_prob, entropy, baseline, log_normalizer = compute(logits, tokens, temperature)
        ctx.save_for_backward(logits, tokens, log_normalizer)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy, baseline)
        return log_prob, entropy, baseline

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_log_prob, *_):
        # d log p_k / d logits = (e_k - p) / temperature, block by block into the one gradient tensor.
        logits, tokens, log_normalizer = ctx.saved_tensors
        grad = torch.empty_like(logits)
        for block in _blocks(logits.shape):
            scale = (grad_log_prob[block] / ctx.temperature).unsqueeze(-1)
            z = logits[block].to(scale.dtype) / ctx.temperature
            p = z.sub_(log_normalizer[block].unsqueeze(-1)).exp_()
            grad[block] = p.mul_(-scale).scatter_add_(-1, tokens[block].unsqueeze(-1), scale)
        return grad, None, None, None


def _eager(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The reference backend: log_prob, entropy, baseline and log normalizer from the four sums, block by block."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_prob, entropy, baseline, log_normalizer = logits.new_empty((4, *tokens.shape), dtype=dtype)
    for block in _blocks(logits.shape):
        z = logits[block].to(dtype) / temperature
        largest = z.amax(-1, keepdim=True)
        check_largest(largest)
        d = z.sub_(largest)
        d_k = d.gather(-1, tokens[block].unsqueeze(-1)).squeeze(-1)
        e = d.exp()
        d.clamp_(min=-1e4)  # where a logit is -inf, e is 0 and e d must be 0 too, not NaN
        s, u = e.sum(-1), torch.linalg.vecdot(e, d)
        v, w = torch.linalg.vecdot(e, e), torch.linalg.vecdot(e.square(), d)
        log_s = s.log()
        log_prob[block] = d_k - log_s
        entropy[block] = log_s - u / s
        baseline[block] = (w - v * u / s) / s**2
        log_normalizer[block] = largest.squeeze(-1) + log_s
    return log_prob, entropy, baseline, log_normalizer


_BACKENDS: dict[str, Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor, Tensor]]] = {"eager": _eager}


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
