"""Updates of a policy on one batch of rollouts."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import PreTrainedModel

from companion.laboratory.rollout import Rollout, response_logits
from companion.laboratory.rule import Rule
from entropy_dynamics import grpo
from entropy_dynamics.methods import Terms, TokenBatch


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
    batch = grpo.token_batch(
        logits,
        rollout.tokens,
        rollout.mask,
        rewards,
        temperature=rollout.temperature,
        correction=config.correction,
        first=first,
        update=update,
        entropies=entropies,
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
    groups = grpo.counting_rows(batch, terms).view(len(rollout.prompts), -1).any(-1)
    if not groups.any():
        return 0.0
    rows = groups.repeat_interleave(rollout.group_size)
    logits = response_logits(policy, rollout.prompts[groups], rollout.tokens[rows])
    return grpo.step(
        logits,
        rollout.tokens[rows],
        rows,
        batch,
        terms,
        optimizer,
        temperature=rollout.temperature,
        aggregation=config.aggregation,
        denominator=config.denominator,
        max_grad_norm=config.max_grad_norm,
    )
