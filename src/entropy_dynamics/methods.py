"""Token rules: functions from a batch of sampled tokens to a weight for each token's loss.

Every rule has the signature rule(batch, generator, **options) -> weights of the batch's shape; `RULES` lists them.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from torch import Tensor

from entropy_dynamics.token_statistics import TokenStatistics


@dataclass(frozen=True)
class TokenBatch:
    """What a rule may look at; every tensor is (N, T), one row a response, and carries no gradient."""

    statistics: TokenStatistics  # of the policy that is trained, at the sampling temperature
    old_log_prob: Tensor  # log-probability of each token when it was sampled
    advantages: Tensor  # of each token's response
    mask: Tensor  # bool: the tokens that count

    @property
    def ratio(self) -> Tensor:
        """The importance ratio r."""
        return (self.statistics.log_prob - self.old_log_prob).exp()


def grpo(batch: TokenBatch, generator: torch.Generator) -> Tensor:
    """Every token counts in full."""
    return batch.mask


def intervention(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    action: Literal["keep", "remove"],
    advantage: Literal["positive", "negative"],
    statistic: Literal["S", "D"],
    sign: Literal["above", "below"],
    at_random: bool = False,
) -> Tensor:
    """Keep only, or remove, the tokens with A of one sign and S (or D) above or below zero.

    "keep" with S is the paper's intervention: the gradient of all other tokens vanishes, those of the other sign of
    A included. With `at_random` it is the control: as many tokens, drawn from all with that sign of A.
    """
    side = batch.mask & (batch.advantages > 0 if advantage == "positive" else batch.advantages < 0)
    value = batch.statistics.discriminator if statistic == "S" else batch.statistics.centred
    selected = side & (value > 0 if sign == "above" else value < 0)
    if at_random:
        selected = random_subset(side, int(selected.sum()), generator)
    return selected if action == "keep" else batch.mask & ~selected


def random_subset(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A bool mask of `count` of the true entries of `candidates`, each subset equally likely."""
    places = candidates.flatten().nonzero().squeeze(-1)
    if not 0 <= count <= len(places):
        raise ValueError(f"count is {count}, expected 0 to {len(places)}, the number of candidates")
    chosen = places[torch.randperm(len(places), generator=generator)[:count]]
    subset = torch.zeros(candidates.numel(), dtype=torch.bool)
    subset[chosen] = True
    return subset.view_as(candidates)


RULES: dict[str, Callable[..., Tensor]] = {"grpo": grpo, "intervention": intervention}


class Rule(BaseModel):
    """A rule by name with its options: what an experiment's config says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "grpo"
    options: dict[str, bool | int | float | str | None] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_known(self) -> "Rule":
        if self.name not in RULES:
            raise ValueError(f"unknown rule {self.name!r}; choose from {', '.join(RULES)}")
        signature = inspect.signature(RULES[self.name]).parameters.values()
        options = [p for p in signature if p.kind is p.KEYWORD_ONLY]
        fields = {p.name: (p.annotation, ... if p.default is p.empty else p.default) for p in options}
        strict = ConfigDict(extra="forbid", strict=True)  # "false" is no bool, and equal rules are equal records
        complete = create_model(f"options of {self.name}", __config__=strict, **fields)(**self.options)
        object.__setattr__(self, "options", complete.model_dump())
        return self

    def __call__(self, batch: TokenBatch, generator: torch.Generator) -> Tensor:
        return RULES[self.name](batch, generator, **self.options)
