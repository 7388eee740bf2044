"""Updates of a policy on one batch of rollouts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import transformers
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from companion.laboratory.rollout import Rollout, response_logits
from companion.laboratory.rule import Rule
from entropy_dynamics import grpo
from entropy_dynamics.control import TargetEntropy
from entropy_dynamics.methods import Terms, TokenBatch, is_clipped
from entropy_dynamics.token_statistics import TokenStatistics


class Control(BaseModel):
    """Which option of the rule `TargetEntropy` moves; the other fields are its arguments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    option: str
    target: float
    effect: float
    horizon: float = 10.0
    smallest: float = 0.0
    largest: float = 1.0

    def controller(self, vocabulary: int) -> TargetEntropy:
        """A new one."""
        return TargetEntropy(vocabulary=vocabulary, **self.model_dump(exclude={"option"}))


class StepConfig(BaseModel):
    """How one batch of rollouts is turned into updates of the policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Rule = Rule()
    updates: int = Field(default=1, ge=1, description="times that the batch is gone through before new rollouts")
    parts: int = Field(default=1, ge=1, description="equal parts of the prompts, with an update on each in turn")
    masks: Literal["each update", "once a batch"] = Field(
        default="each update", description="when the rule decides; once, PPO's clip alone looks at later updates"
    )
    control: Control | None = None
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
    rule: Rule  # that decided, with the strength that a controller gave it


def update(
    policy: transformers.PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    rewards: Tensor,
    config: StepConfig,
    generator: torch.Generator,
    *,
    entropies: tuple[float, ...] = (),
    reference: Tensor | None = None,
    controller: TargetEntropy | None = None,
) -> list[UpdateReport]:
    """Update the policy on one batch, `config.updates` times on each of `config.parts` parts.

    Args:
        policy: the one that sampled the rollout, unchanged since.
        rewards: (P, G).
        generator: for rules that draw at random.
        entropies: mean entropy of every earlier batch when it was sampled, for rules that look back; nats.
        reference: as in `grpo.token_batch`.
        controller: of `config.control`; it is moved once.

    Raises:
        FloatingPointError: a gradient that is not finite; the policy is left as it was before that update.
    """
    whole, _ = observe(policy, rollout, rewards, config, entropies=entropies, reference=reference)
    rule = config.rule
    if controller is not None:
        rule = rule.with_option(config.control.option, controller.update(whole.entropies[-1]))
    decided = rule(whole, generator) if config.masks == "once a batch" else None
    reports: list[UpdateReport] = []
    for number in range(config.updates * config.parts):
        prompts, rows = _part(rollout, number % config.parts, config.parts)
        some, first = rollout.part(prompts), _rows(whole, rows)
        batch, logits = first, some.logits
        if number:
            batch, logits = observe(policy, some, rewards[prompts], config, first=first, update=number)
        terms = rule(batch, generator) if decided is None else Terms(*(x[rows] for x in decided))
        if decided is not None:
            terms = terms._replace(weights=terms.weights * ~is_clipped(batch.ratio, batch.advantages))
        norm = ascend(policy, optimizer, some, batch, terms, config)
        reports.append(UpdateReport(batch, logits, terms, norm, rule))
    return reports


def _part(rollout: Rollout, number: int, parts: int) -> tuple[slice, slice]:
    """The prompts and the rows of a part."""
    size, rest = divmod(len(rollout.prompts), parts)
    if rest:
        raise ValueError(f"{len(rollout.prompts)} prompts do not divide into {parts} equal parts")
    start, stop = number * size, (number + 1) * size
    return slice(start, stop), slice(start * rollout.group_size, stop * rollout.group_size)


def _rows(batch: TokenBatch, rows: slice) -> TokenBatch:
    """The batch of some of its responses, whole groups."""

    def of(statistics: TokenStatistics) -> TokenStatistics:
        return TokenStatistics(*(x if x is None else x[rows] for x in statistics))

    statistics, groups = of(batch.statistics), batch.groups[rows]
    return replace(
        batch,
        statistics=statistics,
        old=statistics if batch.old is batch.statistics else of(batch.old),
        advantages=batch.advantages[rows],
        rewards=batch.rewards[rows],
        mask=batch.mask[rows],
        groups=groups - groups[0],
        reference=None if batch.reference is None else batch.reference[rows],
    )


def observe(
    policy: transformers.PreTrainedModel,
    rollout: Rollout,
    rewards: Tensor,
    config: StepConfig,
    *,
    first: TokenBatch | None = None,
    update: int = 0,
    entropies: tuple[float, ...] = (),
    reference: Tensor | None = None,
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
        reference=reference,
    )
    return batch, logits


def ascend(
    policy: transformers.PreTrainedModel,
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
