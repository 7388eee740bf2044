"""One GRPO step: group advantages, the objective that a rule's terms make, and the updates of a policy on one batch."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import PreTrainedModel

from entropy_dynamics import theory
from entropy_dynamics.methods import Rule, Terms, TokenBatch
from entropy_dynamics.rollout import Rollout, response_logits
from entropy_dynamics.token_statistics import token_statistics


class StepConfig(BaseModel):
    """How one batch of rollouts is turned into updates of the policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Rule = Rule()
    updates: int = Field(default=1, ge=1, description="updates on the whole batch before new rollouts")
    correction: Literal[0, 1] = Field(default=1, description="group deviation: 1 sample (as released), 0 population")
    aggregation: Literal["token-mean", "sequence-mean"] = "token-mean"
    denominator: Literal["all", "kept"] = Field(
        default="all", description="whether tokens without any coefficient still count in the means"
    )
    max_grad_norm: float = Field(default=1.0, gt=0)


@dataclass(frozen=True)
class UpdateReport:
    """What one update saw, before the policy moved; tensors without gradient."""

    batch: TokenBatch
    logits: Tensor  # (N, T, V)
    terms: Terms  # what the rule gave
    gradient_norm: float  # before clipping; 0 where no token counted, and no update was made


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
        aggregation: "token-mean" over all tokens, or "sequence-mean", the mean over responses of their token means.
        denominator: "all" counts every token of the mask, "kept" only those with a coefficient that is not 0.

    Returns:
        A scalar; 0 where nothing counts.
    """
    mask = batch.mask
    # where, not a product: what lies behind the end token may be infinite
    ratio = (log_prob - batch.old.log_prob).where(mask, 0.0).exp()
    objective = terms.weights * ratio * batch.advantages
    objective = objective + terms.log_prob * log_prob.where(mask, 0.0) + terms.entropy * entropy.where(mask, 0.0)
    objective = objective.where(mask, 0.0)
    counted = mask if denominator == "all" else mask & _counts(terms)
    if aggregation == "token-mean":
        return -objective.sum() / counted.sum().clamp(min=1)
    lengths = counted.sum(-1)
    return -(objective.sum(-1) / lengths.clamp(min=1)).sum() / (lengths > 0).sum().clamp(min=1)


def _counts(terms: Terms) -> Tensor:
    return (terms.weights != 0) | (terms.log_prob != 0) | (terms.entropy != 0)


def update(
    policy: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    rewards: Tensor,
    config: StepConfig,
    generator: torch.Generator,
    *,
    entropies: tuple[float, ...] = (),
) -> list[UpdateReport]:
    """Update the policy `config.updates` times on one batch.

    Args:
        policy: the one that sampled the rollout, unchanged since.
        rewards: (P, G).
        generator: for rules that draw at random.
        entropies: mean entropy of every earlier batch when it was sampled, for rules that look back; nats.

    Raises:
        FloatingPointError: a gradient that is not finite; the policy is left as it was before that update.
    """
    reports: list[UpdateReport] = []
    for number in range(config.updates):
        first = reports[0].batch if reports else None
        batch, logits = observe(policy, rollout, rewards, config, first=first, update=number, entropies=entropies)
        terms = config.rule(batch, generator)
        norm = ascend(policy, optimizer, rollout, batch, terms, config)
        reports.append(UpdateReport(batch, logits, terms, norm))
    return reports


def observe(
    policy: PreTrainedModel,
    rollout: Rollout,
    rewards: Tensor,
    config: StepConfig,
    *,
    first: TokenBatch | None = None,
    update: int = 0,
    entropies: tuple[float, ...] = (),
) -> tuple[TokenBatch, Tensor]:
    """The batch as a rule sees it, and its logits (N, T, V).

    `first` is the batch before its first update; without it the policy is still the one that sampled, and the logits
    are those of the rollout. Other arguments as in `update`.
    """
    with torch.no_grad():
        logits = response_logits(policy, rollout.prompts, rollout.tokens) if first else rollout.logits
        statistics = token_statistics(logits, rollout.tokens, temperature=rollout.temperature)
    shape = rollout.mask.shape
    advantages = group_advantages(rewards, correction=config.correction)
    batch = TokenBatch(
        statistics=statistics,
        old=first.old if first else statistics,
        advantages=advantages.flatten().unsqueeze(-1).expand(shape),
        rewards=rewards.flatten().unsqueeze(-1).expand(shape),
        mask=rollout.mask,
        groups=torch.arange(len(rewards)).repeat_interleave(rollout.group_size),
        update=update,
        entropies=first.entropies if first else (*entropies, statistics.entropy[rollout.mask].mean().item()),
    )
    return batch, logits


def ascend(
    policy: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    batch: TokenBatch,
    terms: Terms,
    config: StepConfig,
) -> float:
    """One optimizer step on the objective that `terms` make; returns the gradient's norm before clipping.

    Only groups with a token that counts are put through the policy (a group whose rewards are all alike has advantage
    0). Where no token counts there is no step: momentum alone shall not move the policy.
    """
    counts = rollout.mask & ((terms.of_log_prob(batch) != 0) | (terms.entropy != 0))
    groups = counts.view(len(rollout.prompts), -1).any(-1)
    if not groups.any():
        return 0.0
    rows = groups.repeat_interleave(rollout.group_size)
    logits = response_logits(policy, rollout.prompts[groups], rollout.tokens[rows])
    statistics = token_statistics(logits, rollout.tokens[rows], temperature=rollout.temperature)
    where = (rows.nonzero().squeeze(-1),)
    log_prob = batch.statistics.log_prob.index_put(where, statistics.log_prob)
    entropies = batch.statistics.entropy
    if (terms.entropy != 0).any():
        entropies = entropies.index_put(where, theory.entropy(logits / rollout.temperature))
    optimizer.zero_grad()
    value = loss(log_prob, entropies, batch, terms, aggregation=config.aggregation, denominator=config.denominator)
    value.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    if not norm.isfinite():
        raise FloatingPointError(f"the gradient norm is {norm}; the rewards or the policy are not finite")
    optimizer.step()
    return norm.item()
