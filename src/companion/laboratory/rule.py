"""A rule of `methods` by name with its options, as configs hold it."""

import inspect

import torch
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from entropy_dynamics.methods import RULES, Terms, TokenBatch, as_terms


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

    def __call__(self, batch: TokenBatch, generator: torch.Generator) -> Terms:
        result = RULES[self.name](batch, generator, **self.options)
        return result if isinstance(result, Terms) else as_terms(batch, result)

    def with_option(self, name: str, value: float) -> "Rule":
        """The rule with another value of an option that it has."""
        if name not in self.options:
            raise ValueError(f"the rule {self.name} has no option {name!r}; it has {', '.join(self.options)}")
        return self.model_copy(update={"options": self.options | {name: value}})
