"""One GRPO step: group advantages, the clipped surrogate, and the update of a policy on one batch of rollouts."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import PreTrainedModel

from entropy_dynamics.methods import Rule, TokenBatch
from entropy_dynamics.rollout import Rollout, response_logits
from entropy_dynamics.token_statistics import TokenStatistics, token_statistics


class StepConfig(BaseModel):
    """How one batch of rollouts is turned into updates of the policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Rule = Rule()
    updates: int = Field(default=1, ge=1, description="updates on the whole batch before new rollouts")
    clip_low: float = Field(default=0.2, ge=0, le=1, description="the ratio is clipped below at 1 - clip_low")
    clip_high: float = Field(default=0.2, ge=0, description="and above at 1 + clip_high")
    aggregation: Literal["token-mean", "sequence-mean"] = "token-mean"
    denominator: Literal["all", "kept"] = Field(
        default="all", description="whether tokens of weight 0 still count in the means"
    )
    max_grad_norm: float = Field(default=1.0, gt=0)


@dataclass(frozen=True)
class UpdateReport:
    """What one update saw, before the policy moved; tensors without gradient."""

    statistics: TokenStatistics  # (N, T)
    logits: Tensor  # (N, T, V)
    ratio: Tensor  # (N, T) importance ratio
    weights: Tensor  # (N, T) float, what the rule gave
    clipped: Tensor  # (N, T) bool: the clip takes away the gradient of this token
    gradient_norm: float  # before clipping


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


def is_clipped(ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """Whether the clip takes away a token's gradient: r > 1 + clip_high with A > 0, or r < 1 - clip_low with A < 0."""
    return ((advantages > 0) & (ratio > 1 + clip_high)) | ((advantages < 0) & (ratio < 1 - clip_low))


def surrogate_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    aggregation: Literal["token-mean", "sequence-mean"] = "token-mean",
    denominator: Literal["all", "kept"] = "all",
) -> Tensor:
    """The negative clipped surrogate, -w min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), averaged.

    Args:
        log_prob: (N, T), with gradient; old_log_prob: (N, T) when sampled.
        advantages: (N, T) or (N, 1).
        mask: (N, T) bool, the response tokens.
        weights: (N, T), the rule's; None is 1 everywhere.
        aggregation: "token-mean" over all tokens, or "sequence-mean", the mean over responses of their token means.
        denominator: "all" counts every token of the mask, "kept" only those whose weight is not 0.

    Returns:
        A scalar; 0 where nothing counts.
    """
    ratio = (log_prob - old_log_prob).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    weights = mask.to(ratio.dtype) if weights is None else weights.to(ratio.dtype) * mask
    counted = mask if denominator == "all" else weights != 0
    # where, not a product: what lies behind the end token may be infinite
    loss = -torch.where(mask, surrogate, 0.0) * weights
    if aggregation == "token-mean":
        return loss.sum() / counted.sum().clamp(min=1)
    lengths = counted.sum(-1)
    return (loss.sum(-1) / lengths.clamp(min=1)).sum() / (lengths > 0).sum().clamp(min=1)


def update(
    policy: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    advantages: Tensor,
    config: StepConfig,
    generator: torch.Generator,
) -> list[UpdateReport]:
    """Update the policy `config.updates` times on one batch.

    Only groups with a token that counts are put through the policy with gradients; a group whose rewards are all alike
    has advantage 0 and none. The first update takes its statistics from the logits that the rollout was sampled from.

    Args:
        policy: the one that sampled the rollout, unchanged since.
        advantages: (P G,), one a response.
        generator: for rules that draw at random.

    Raises:
        FloatingPointError: a gradient that is not finite; the policy is left as it was before that update.
    """
    advantages = advantages.unsqueeze(-1).expand(rollout.mask.shape)
    clip = {"clip_low": config.clip_low, "clip_high": config.clip_high}
    reports = []
    for number in range(config.updates):
        with torch.no_grad():
            logits = response_logits(policy, rollout.prompts, rollout.tokens) if number else rollout.logits
            statistics = token_statistics(logits, rollout.tokens, temperature=rollout.temperature)
        batch = TokenBatch(statistics, rollout.log_prob, advantages, rollout.mask)
        weights = config.rule(batch, generator).to(logits.dtype)
        loss = surrogate_loss(
            _log_prob_with_gradient(policy, rollout, statistics.log_prob, (weights * advantages != 0) & rollout.mask),
            rollout.log_prob,
            advantages,
            rollout.mask,
            weights,
            aggregation=config.aggregation,
            denominator=config.denominator,
            **clip,
        )
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        if not norm.isfinite():
            raise FloatingPointError(f"the gradient norm is {norm}; the rewards or the policy are not finite")
        optimizer.step()
        clipped = is_clipped(batch.ratio, advantages, **clip) & rollout.mask
        reports.append(UpdateReport(statistics, logits, batch.ratio, weights, clipped, norm.item()))
    return reports


def _log_prob_with_gradient(policy: PreTrainedModel, rollout: Rollout, log_prob: Tensor, counts: Tensor) -> Tensor:
    """`log_prob` with the rows of every group that has a token in `counts` recomputed with gradient."""
    groups = counts.view(len(rollout.prompts), -1).any(-1)
    groups[0] |= ~groups.any()  # a batch without any still needs a gradient, of zeros
    rows = groups.repeat_interleave(rollout.group_size)
    tokens = rollout.tokens[rows]
    logits = response_logits(policy, rollout.prompts[groups], tokens)
    recomputed = token_statistics(logits, tokens, temperature=rollout.temperature).log_prob
    return log_prob.index_put((rows.nonzero().squeeze(-1),), recomputed)
