"""The GRPO objective straight from hidden states and the output head, with its gradient, without the (T, V) logits.

A rule's coefficients are constants, so the gradient of a token's logits is known as soon as the logits are. With
`grpo.shares` s and the coefficients w, b and c of r A, log p and H,

    dL/dz = (p (g + e (log p + H)) - g e_k) / temperature,    g = s (w r A + b),    e = s c.

The logits of a few tokens are made, read for all statistics, turned into that gradient in place, and multiplied with
head and hidden states: three matrix products, as many as where the logits are kept.
"""

from typing import Literal

import torch
from torch import Tensor

from entropy_dynamics import grpo
from entropy_dynamics.backends import select
from entropy_dynamics.linear_statistics import checked_head
from entropy_dynamics.methods import Terms, TokenBatch
from entropy_dynamics.theory import check_largest, check_tokens
from entropy_dynamics.token_statistics import TokenStatistics, from_sums
from entropy_dynamics.vocabulary_sums import LOWEST, Backend, accumulator

FEWEST_TOKENS, MOST_TOKENS = 64, 512  # whose logits are there at once; between them a quarter of the tokens
WORDS_AT_ONCE = 8192  # of a half-precision head, whose gradient is added up in float32
ENTROPY_ELEMENTS = 2**22  # logits whose logarithms are there at once where H has a coefficient


def linear_grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    batch: TokenBatch,
    terms: Terms,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    aggregation: Literal["token-mean", "sequence-mean"] = "token-mean",
    denominator: Literal["all", "kept"] = "all",
    backend: str = "auto",
) -> tuple[Tensor, TokenStatistics]:
    """`grpo.loss` of the logits hidden weight^T + bias, which never exist as a whole, and the statistics they give.

    With hidden states that predict the tokens, those of the positions before them, and one advantage and reward (N,) a
    response:

        with torch.no_grad():  # once a batch, at the policy that sampled it, with its temperature and bias
            old = linear_token_statistics(hidden, weight, tokens)
        a, r = (x.unsqueeze(-1).expand(mask.shape) for x in (advantages, rewards))
        batch = TokenBatch(old, old, a, r, mask, groups)
        terms = as_terms(batch, methods.clip_b(batch, generator, mu=2.0))
        loss, statistics = linear_grpo_loss(hidden, weight, tokens, batch, terms)

    Later updates on the batch take TokenBatch(now, old, ...), with the statistics of the policy then: PPO's clip looks
    at their ratio to `old`.

    Args:
        hidden: (N, T, W), the last hidden states that predict `tokens`; floating. Those outside the mask are not read.
        weight, bias, temperature, backend: as in `linear_token_statistics`.
        tokens: (N, T), integer indices into the vocabulary.
        batch, terms, aggregation, denominator: as in `grpo.loss`; the batch's own statistics are not used.

    Returns:
        The loss, a scalar whose gradient flows to `hidden`, `weight` and `bias`, once: it is there before backward, and
        a second backward is a RuntimeError. And `TokenStatistics` (N, T) without gradient, 0 outside the mask.

    Raises:
        ValueError: shapes or dtypes that do not fit together, and whatever `token_statistics` refuses.
        TypeError: terms that are no `Terms`; `as_terms` makes them of weights.
    """
    hidden, weight, bias = checked_head(hidden, weight, bias, tokens, temperature)
    check_tokens(tokens, hidden[..., :1].expand(*hidden.shape[:-1], len(weight)))
    if tokens.shape != batch.mask.shape:
        raise ValueError(f"tokens have shape {tuple(tokens.shape)}, expected {tuple(batch.mask.shape)} like the mask")
    share = grpo.shares(batch.mask, terms, aggregation=aggregation, denominator=denominator)
    ratio_part = share * terms.weights * batch.advantages
    columns = (tokens.long(), batch.old.log_prob, ratio_part, share * terms.log_prob, share * terms.entropy)
    counts = torch.stack([x != 0 for x in columns[2:]]).any(0)[batch.mask]
    order = counts.long().argsort(descending=True, stable=True)  # tokens with a gradient first
    places = batch.mask.flatten().nonzero().squeeze(-1)[order]
    chosen = select(backend, elements=len(places) * len(weight), device=hidden.device)
    wanted = tuple(torch.is_grad_enabled() and x is not None and x.requires_grad for x in (hidden, weight, bias))
    loss, *found = _Loss.apply(
        hidden.reshape(-1, hidden.shape[-1])[places],
        weight,
        bias,
        *(x.expand(tokens.shape).reshape(-1)[places] for x in columns),
        int(counts.sum()),
        wanted,
        temperature,
        chosen,
    )
    filled = (x.new_zeros(tokens.numel()).index_put((places,), x).view(tokens.shape) for x in found)
    return loss, TokenStatistics(*filled)


class _Loss(torch.autograd.Function):
    """The loss of tokens (M,) and their statistics; keeps the gradients of `wanted` inputs until backward."""

    @staticmethod
    def forward(
        ctx, hidden, weight, bias, tokens, old, of_ratio, of_log_prob, of_entropy, active, wanted, temperature, backend
    ):
        inputs, dtype = (hidden, weight, bias), accumulator(hidden.dtype)
        ctx.dtypes = [None if x is None else x.dtype for x in inputs]
        gradients = [x.new_zeros(x.shape, dtype=dtype) if want else None for x, want in zip(inputs, wanted)]
        size = min(max(FEWEST_TOKENS, len(hidden) // 4), MOST_TOKENS)
        memory = hidden.new_empty(min(size, len(hidden)) * len(weight))
        starts = [*range(0, active, size), *range(active, len(hidden), size)]
        loss = hidden.new_zeros((), dtype=torch.float64)
        found = [hidden.new_zeros(len(hidden), dtype=dtype) for _ in range(4)]
        for start, stop in zip(starts, [*starts[1:], len(hidden)]):
            some = slice(start, stop)
            logits = _logits(hidden[some], weight, bias, memory)
            normalizer, statistics = _statistics(logits, tokens[some], temperature, backend)
            for whole, part in zip(found, statistics):
                whole[some] = part
            log_prob, entropy = statistics[:2]
            g, e = of_ratio[some] * (log_prob - old[some]).exp(), of_entropy[some]
            loss -= (g + of_log_prob[some] * log_prob + e * entropy).double().sum()
            if start < active and any(wanted):
                g = g + of_log_prob[some]
                # Half precision has digits for values about 1, whatever the shares are.
                unit = 1.0 if logits.dtype == dtype else torch.maximum(g.abs(), e.abs()).amax().clamp(min=1e-30)
                g, e = g / (unit * temperature), e / (unit * temperature)
                at_token = log_prob.exp() * (g + e * (log_prob.clamp(min=LOWEST) + entropy)) - g
                _to_softmax(logits, normalizer, g, e, entropy, temperature, backend)
                logits[torch.arange(len(g), device=g.device), tokens[some]] = at_token.to(logits.dtype)
                _multiply(logits, unit, hidden[some], weight, some, gradients)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(*found)
        return loss.to(dtype), *found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss, *_):
        if ctx.gradients is None:
            raise RuntimeError("the gradient of linear_grpo_loss can be taken once; call it again for another backward")
        gradients, ctx.gradients = ctx.gradients, None
        factor = None if grad_loss.device.type == "cpu" and grad_loss == 1 else grad_loss  # a head is large
        scaled = (
            None if x is None else (x if factor is None else x.mul_(factor)).to(dtype)
            for x, dtype in zip(gradients, ctx.dtypes)
        )
        return *scaled, *(None,) * 9


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, memory: Tensor) -> Tensor:
    """(n, V), in `memory`."""
    out = memory[: len(hidden) * len(weight)].view(len(hidden), len(weight))
    torch.mm(hidden, weight.T, out=out)
    return out if bias is None else out.add_(bias)


def _statistics(logits: Tensor, tokens: Tensor, temperature: float, backend: Backend) -> tuple[Tensor, TokenStatistics]:
    """The log of sum exp z of every state, and the statistics."""
    largest, sums = backend.vocabulary_sums(logits, temperature, 2)
    check_largest(largest)
    z_k = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).to(largest.dtype) / temperature
    log_s = sums[0].log()
    return largest + log_s, from_sums(z_k - largest - log_s, sums)


def _to_softmax(
    logits: Tensor, normalizer: Tensor, g: Tensor, e: Tensor, entropy: Tensor, temperature: float, backend: Backend
) -> None:
    """Overwrite the logits with p (g + e (log p + H))."""
    if not e.any():
        backend.scaled_softmax(logits, logits, normalizer, g, temperature)
        return
    rows = max(1, ENTROPY_ELEMENTS // logits.shape[-1])
    of_states = torch.stack([normalizer, g + e * entropy, e]).unsqueeze(-1)
    for z, (norm, constant, slope) in zip(logits.split(rows), of_states.split(rows, 1)):
        log_p = z.to(norm.dtype) / temperature - norm
        z.copy_(log_p.exp() * (constant + slope * log_p.clamp(min=LOWEST)))


def _multiply(
    grad: Tensor, unit: Tensor | float, hidden: Tensor, weight: Tensor, some: slice, gradients: list[Tensor | None]
) -> None:
    """Add what the gradient of some tokens' logits, in units of `unit`, gives the hidden states, the head, the bias."""
    of_hidden, of_weight, of_bias = gradients
    if of_hidden is not None:
        of_hidden[some] = (grad @ weight).to(of_hidden.dtype) * unit
    if of_weight is not None and of_weight.dtype == grad.dtype:
        of_weight.addmm_(grad.T, hidden, beta=0 if some.start == 0 else 1)  # zeros need not be read
    elif of_weight is not None:
        for words, part in zip(of_weight.split(WORDS_AT_ONCE), grad.split(WORDS_AT_ONCE, -1)):
            words += (part.T @ hidden).to(words.dtype) * unit
    if of_bias is not None:
        of_bias += grad.sum(0, dtype=of_bias.dtype) * unit
