"""From logits and sampled tokens to the per-token statistics that every method here is built on.

One pass over the vocabulary yields all of them. With z the logits over the temperature, m the largest of a state,
d_i = z_i - m and e_i = exp(d_i), four sums suffice: s = sum e, u = sum e d, v = sum e^2, w = sum e^2 d. Then:

    log p_k = d_k - log s        H = log s - u / s        E_p[S] = (w - v u / s) / s^2.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from entropy_dynamics.backends import select
from entropy_dynamics.operators import differentiable, operator
from entropy_dynamics.theory import check_largest, check_shape, check_tokens
from entropy_dynamics.vocabulary_sums import accumulator


class TokenStatistics(NamedTuple):
    """Statistics of one sampled token per state; every field has the shape of `tokens` and is in nats.

    They are as good as the logits: of logits about 20, bfloat16's rounding moves H by up to 0.15, S and D by up to 0.1.
    """

    log_prob: Tensor  # log p_k of the sampled token k; the only field that carries gradient
    entropy: Tensor  # H of the state, 0 to log V
    discriminator: Tensor  # S_* = p_k (H + log p_k), at least -0.2239
    baseline: Tensor  # E_p[S], never negative
    curvature: Tensor | None = None  # Q in dH = -alpha D + alpha^2 Q + O(alpha^3) (identity 6), where asked for

    @property
    def centred(self) -> Tensor:
        """D = S_* - E_p[S], whose negative is the entropy change per unit of effective step (Theorem 3.3).

        In float32 the sign of a likeliest token's D is lost where H < 5e-6 nats; D is below 1e-11 there.
        """
        return self.discriminator - self.baseline


def token_statistics(
    logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, backend: str = "auto", curvature: bool = False
) -> TokenStatistics:
    """Log-probability, entropy, discriminator and baseline of `tokens` under softmax(logits / temperature).

    Args:
        logits: (..., V), floating; bfloat16 and float16 are accumulated in float32 and return float32. Those that
            predict the tokens: of a causal model's, `logits[:, :-1]` go with `ids[:, 1:]`.
        tokens: (...), integer indices into the vocabulary.
        temperature: the sampling temperature, positive and finite; the statistics are those of the policy at it.
        backend: "eager", "compiled" (torch.compile), "triton" (CUDA), or "auto" for the fastest that suits the input.
        curvature: whether to take the second-order coefficient from the same pass.

    Returns:
        `TokenStatistics`; gradient flows to `logits` through `log_prob` alone. A token of zero mass
        has log_prob -inf and S = 0.

    Raises:
        ValueError: NaN, +inf or no finite logit in a state, also in one of padding, since nothing here knows which
            states are; fill those (`logits.masked_fill`). Tokens of another shape or outside the vocabulary; a
            temperature that is not positive and finite; an unknown backend.
    """
    check_input(logits, tokens, temperature)
    z_k, largest, sums = _token_sums(logits.detach(), tokens, temperature, 3 if curvature else 2, backend)
    return from_sums(log_prob_of(logits, tokens, z_k, largest, sums[0].log(), temperature, backend), sums)


def check_input(logits: Tensor, tokens: Tensor, temperature: float) -> None:
    """Raise ValueError for what `token_statistics` refuses before it looks at values."""
    check_temperature(temperature)
    if not logits.is_floating_point() or logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must be floating and (..., V), got {logits.dtype} of shape {tuple(logits.shape)}")
    check_shape(tokens, logits)


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless `temperature` is a positive finite number."""
    if isinstance(temperature, Tensor) or not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature is {temperature!r}, expected a positive finite number, no tensor")


@torch.no_grad()
def from_sums(log_prob: Tensor, sums: Tensor) -> TokenStatistics:
    """The statistics of tokens of `log_prob` (...), from the vocabulary sums (4, ...) or (6, ...) of their states."""
    s, u, v, w = sums[:4]
    log_s = s.log()
    entropy = log_s - u / s
    baseline = (w - v * u / s) / s**2
    log_p = log_prob.detach()
    p = log_p.exp()
    discriminator = discriminator_of(log_p, entropy)
    if len(sums) == 4:
        return TokenStatistics(log_prob, entropy, discriminator, baseline)
    square, cube = v / s**2, sums[4] / s**3  # sum p^2 and sum p^3
    cube_log = sums[5] / s**3 - cube * log_s  # sum p^3 log p
    quadratic = (discriminator + p) * (1 - 2 * p) + (1 + entropy) * cube + cube_log  # sum (S_i + p_i) (e_k - p)_i^2
    slope = p - square  # p . (e_k - p)
    curvature = slope * (discriminator - baseline) + 0.5 * (slope**2 - quadratic)
    return TokenStatistics(log_prob, entropy, discriminator, baseline, curvature)


def discriminator_of(log_prob: Tensor, entropy: Tensor) -> Tensor:
    """S = p (H + log p) of tokens from their log p and their states' H, all (...), in nats; 0 where p = 0."""
    p = log_prob.exp()
    return torch.where(p > 0, p * (entropy + log_prob), 0.0)


def baseline_of(entropy: Tensor, squares: Tensor, squares_log: Tensor) -> Tensor:
    """E_p[S] of states from H, sum_i p_i^2 and sum_i p_i^2 log p_i, all (...), in nats: H sum p^2 + sum p^2 log p.

    For trainers whose own kernels give these sums; of logits z, sum p^2 log p = sum p^2 z - log(sum exp z) sum p^2.
    """
    return entropy * squares + squares_log


def gathered(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """The tokens' logits (...) over the temperature, in the accumulator's dtype."""
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).to(accumulator(logits.dtype)) / temperature


def _like_sums(logits, tokens, temperature, powers, backend):
    of_state = logits.new_empty(logits.shape[:-1], dtype=accumulator(logits.dtype))
    return of_state, torch.empty_like(of_state), of_state.new_empty((2 * powers, *of_state.shape))


@operator(
    "token_sums(Tensor logits, Tensor tokens, float temperature, int powers, str backend) -> (Tensor, Tensor, Tensor)",
    fake=_like_sums,
)
def _token_sums(logits, tokens, temperature, powers, backend):
    """The tokens' logits over the temperature and the largest of each state, (...), and the vocabulary sums."""
    check_tokens(tokens, logits)
    chosen = select(backend, elements=logits.numel(), device=logits.device)
    largest, sums = chosen.vocabulary_sums(logits, temperature, powers)
    check_largest(largest)
    return gathered(logits, tokens.long(), temperature), largest, sums


@operator(
    "log_prob(Tensor logits, Tensor tokens, Tensor z_k, Tensor largest, Tensor log_s, float temperature, str backend) "
    "-> Tensor",
    fake=lambda logits, tokens, z_k, *others: torch.empty_like(z_k),
)
def log_prob_of(logits, tokens, z_k, largest, log_s, temperature, backend):
    """log p of the tokens (...), keeping the logits for backward, never the probabilities; a token -1 is elsewhere."""
    return z_k - largest - log_s


@operator(
    "log_prob_backward(Tensor grad, Tensor logits, Tensor tokens, Tensor z_k, Tensor normalizer, float temperature, "
    "str backend) -> Tensor",
    fake=lambda grad, logits, *others: torch.empty_like(logits, memory_format=torch.contiguous_format),
)
def _log_prob_backward(grad, logits, tokens, z_k, normalizer, temperature, backend):
    """The gradient in the logits: d log p_k / d logits = (e_k - p) / temperature."""
    scale = grad / temperature
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    chosen = select(backend, elements=logits.numel(), device=logits.device)
    chosen.scaled_softmax(out, logits, normalizer, -scale, temperature)
    at_token = (scale - scale * (z_k - normalizer).exp()).flatten().to(out.dtype)
    # Not scatter_, which on a CPU takes twice the memory of a half-precision gradient.
    rows, places = torch.arange(tokens.numel(), device=tokens.device), tokens.flatten().long()
    matrix, inside = out.view(-1, out.shape[-1]), places >= 0
    places = places.clamp(min=0)
    matrix[rows, places] = at_token.where(inside, matrix[rows, places])
    return out


def _keep(ctx, inputs, output):
    logits, tokens, z_k, largest, log_s, ctx.temperature, ctx.backend = inputs
    ctx.save_for_backward(logits, tokens, z_k, largest + log_s)


def _backward(ctx, grad):
    return _log_prob_backward(grad, *ctx.saved_tensors, ctx.temperature, ctx.backend), *(None,) * 6


differentiable(log_prob_of, keep=_keep, backward=_backward)
