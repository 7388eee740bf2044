"""GRPO on tensors that the caller brings: group advantages, the batch as rules see it, the objective, one step."""

from typing import Literal

import torch
from torch import Tensor

from entropy_dynamics import theory
from entropy_dynamics.methods import Terms, TokenBatch
from entropy_dynamics.token_statistics import token_statistics


def group_advantages(rewards: Tensor, *, correction: int = 1, eps: float = 1e-6) -> Tensor:
    """(R - mean) / (std + eps) within each group.

    Args:
        rewards: (..., G), the last axis a group.
        correction: 1 for the sample deviation (as released), 0 for the population's.
        eps: as released; keeps a small deviation from blowing up.

    Returns:
        Of the same shape. A group whose rewards are all alike has advantage 0, exactly; a group of one has mean 0 and
        deviation 1, as released, so A = R / (1 + eps).

    Raises:
        ValueError: no group axis, an empty group, rewards that are not finite, or a correction other than 0 or 1.
    """
    if rewards.ndim == 0 or rewards.shape[-1] == 0:
        raise ValueError(f"rewards must be (..., G) with G >= 1, got {tuple(rewards.shape)}")
    if not rewards.isfinite().all():
        raise ValueError("rewards must be finite")
    if correction not in (0, 1):
        raise ValueError(f"correction is {correction}, expected 0 (population) or 1 (sample)")
    if not rewards.is_floating_point():
        rewards = rewards.float()
    if rewards.shape[-1] == 1:
        return rewards / (1 + eps)
    mean = rewards.mean(-1, keepdim=True)
    advantages = (rewards - mean) / (rewards.std(-1, correction=correction, keepdim=True) + eps)
    alike = rewards.amax(-1, keepdim=True) == rewards.amin(-1, keepdim=True)  # their mean may be off by rounding
    return advantages.masked_fill(alike, 0.0)


def loss(
    log_prob: Tensor,
    entropy: Tensor,
    batch: TokenBatch,
    terms: Terms,
    *,
    aggregation: Literal["token-mean", "sequence-mean"] = "token-mean",
    denominator: Literal["all", "kept"] = "all",
) -> Tensor:
    """Minus the objective of `methods`, -(weights r A + log_prob log p + entropy H), averaged.

    Its gradient is that of PPO's clipped surrogate where the weights of clipped tokens are 0.

    Args:
        log_prob: (N, T), with gradient, of the policy that is trained.
        entropy: (N, T), with gradient where the terms have an entropy coefficient.
        batch: old log-probabilities, advantages and mask.
        terms: what a rule gives, as `methods.as_terms(batch, rule(batch, generator))`; (N, T) each.
        aggregation: "token-mean" over all tokens, or "sequence-mean", the mean over responses of their token means.
        denominator: "all" counts every token of the mask, "kept" only those with a coefficient that is not 0.

    Returns:
        A scalar; 0 where nothing counts.

    Raises:
        ValueError: an unknown aggregation or denominator, or log_prob, entropy or terms that are not of the mask's
            shape.
        TypeError: something else than `Terms`.
    """
    mask = batch.mask
    for name, values in (("log_prob", log_prob), ("entropy", entropy)):
        if values.shape != mask.shape:
            raise ValueError(f"{name} has shape {tuple(values.shape)}, expected {tuple(mask.shape)} like the mask")
    share = shares(mask, terms, aggregation=aggregation, denominator=denominator)
    # where, not a product: what lies behind the end token may be infinite
    ratio = (log_prob - batch.old.log_prob).where(mask, 0.0).exp()
    objective = terms.weights * ratio * batch.advantages
    objective = objective + terms.log_prob * log_prob.where(mask, 0.0) + terms.entropy * entropy.where(mask, 0.0)
    return -(share * objective.where(mask, 0.0)).sum()


def shares(
    mask: Tensor,
    terms: Terms,
    *,
    aggregation: Literal["token-mean", "sequence-mean"] = "token-mean",
    denominator: Literal["all", "kept"] = "all",
) -> Tensor:
    """(N, T): what each token's objective counts in `loss`, 0 outside the mask; arguments and errors as there."""
    check_terms(terms, mask, aggregation, denominator)
    counted = mask if denominator == "all" else mask & _counts(terms)
    one = mask.to(terms.weights.dtype)
    if aggregation == "token-mean":
        return one / counted.sum().clamp(min=1)
    lengths = counted.sum(-1, keepdim=True)
    return one / lengths.clamp(min=1) / (lengths > 0).sum().clamp(min=1)


def check_terms(terms: Terms, mask: Tensor, aggregation: str, denominator: str) -> None:
    """Raise ValueError or TypeError for what `loss` refuses."""
    if aggregation not in ("token-mean", "sequence-mean"):
        raise ValueError(f"aggregation is {aggregation!r}, expected 'token-mean' or 'sequence-mean'")
    if denominator not in ("all", "kept"):
        raise ValueError(f"denominator is {denominator!r}, expected 'all' or 'kept'")
    if not isinstance(terms, Terms):
        raise TypeError(f"terms are a {type(terms).__name__}, expected Terms; methods.as_terms makes them of weights")
    for name, coefficient in terms._asdict().items():
        if coefficient.shape != mask.shape:
            raise ValueError(
                f"the terms' {name} have shape {tuple(coefficient.shape)}, expected {tuple(mask.shape)} like the mask"
            )


def _counts(terms: Terms) -> Tensor:
    return (terms.weights != 0) | (terms.log_prob != 0) | (terms.entropy != 0)


def token_batch(
    logits: Tensor,
    tokens: Tensor,
    mask: Tensor,
    rewards: Tensor,
    *,
    temperature: float = 1.0,
    correction: int = 1,
    first: TokenBatch | None = None,
    update: int = 0,
    entropies: tuple[float, ...] = (),
    reference: Tensor | None = None,
) -> TokenBatch:
    """The batch as a rule sees it before an update, without gradient.

    Args:
        logits: (N, T, V) of the policy now, before division by the temperature.
        tokens: (N, T), the responses.
        mask: (N, T) bool, their tokens.
        rewards: (P, G) with P G = N: response g of prompt i is row i G + g.
        temperature: the sampling temperature.
        correction: of `group_advantages`.
        first: the batch before its first update; without it the policy is still the one that sampled.
        update: how many updates on this batch came before.
        entropies: mean entropy of every earlier batch when it was sampled, for rules that look back; nats.
        reference: (N, T) log-probabilities of the tokens under a policy to stay near, for rules that have one.

    Raises:
        ValueError: rewards that are not (P, G), one for each response; see `group_advantages` and `token_statistics`.
    """
    if rewards.ndim != 2 or rewards.numel() != len(tokens):
        raise ValueError(f"rewards have shape {tuple(rewards.shape)}, expected (P, G) with P G = {len(tokens)}")
    with torch.no_grad():
        statistics = token_statistics(logits, tokens, temperature=temperature)
    advantages = group_advantages(rewards, correction=correction)
    return TokenBatch(
        statistics=statistics,
        old=first.old if first else statistics,
        advantages=advantages.flatten().unsqueeze(-1).expand(mask.shape),
        rewards=rewards.flatten().unsqueeze(-1).expand(mask.shape),
        mask=mask,
        groups=torch.arange(len(rewards)).repeat_interleave(rewards.shape[-1]),
        update=update,
        entropies=first.entropies if first else (*entropies, statistics.entropy[mask].mean().item()),
        reference=first.reference if first else reference,
    )


def counting_rows(batch: TokenBatch, terms: Terms) -> Tensor:
    """(N,) bool: the responses with a token whose gradient is not zero; the others need not go through the policy."""
    return (batch.mask & ((terms.of_log_prob(batch) != 0) | (terms.entropy != 0))).any(-1)


def step(
    logits: Tensor,
    tokens: Tensor,
    rows: Tensor,
    batch: TokenBatch,
    terms: Terms,
    optimizer: torch.optim.Optimizer,
    *,
    temperature: float = 1.0,
    aggregation: Literal["token-mean", "sequence-mean"] = "token-mean",
    denominator: Literal["all", "kept"] = "all",
    max_grad_norm: float = 1.0,
) -> float:
    """One optimizer step on the objective that `terms` make of the batch.

    Args:
        logits: (R, T, V) with gradient, of the responses `rows` under the policy that is trained.
        tokens: (R, T), the same responses.
        rows: (N,) bool with R true entries, at least those of `counting_rows`.
        batch, terms: of all N responses.
        aggregation, denominator: as in `loss`.
        max_grad_norm: gradients are scaled down to this norm, taken over all parameters of the optimizer.

    Returns:
        The gradient's norm before that.

    Raises:
        FloatingPointError: a gradient that is not finite; no step was made.
    """
    statistics = token_statistics(logits, tokens, temperature=temperature)
    where = (rows.nonzero().squeeze(-1),)
    log_prob = batch.statistics.log_prob.index_put(where, statistics.log_prob)
    entropies = batch.statistics.entropy
    if (terms.entropy != 0).any():
        entropies = entropies.index_put(where, theory.entropy(logits / temperature))
    optimizer.zero_grad()
    loss(log_prob, entropies, batch, terms, aggregation=aggregation, denominator=denominator).backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    if not norm.isfinite():
        raise FloatingPointError(f"the gradient norm is {norm}; the rewards or the policy are not finite")
    optimizer.step()
    return norm.item()
