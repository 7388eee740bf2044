"""Single training steps taken apart: what each level of theory says of every state's entropy, and what happened.

Along a run of plain GRPO, at chosen batches, a step is made from the policy as it is, with half of the tokens (drawn at
random) and with the tokens that a rule keeps. The other tokens of the same responses, and responses to problems that
no training sees, tell where the change goes. All of it is done in float64. For each state, in nats:

- `theorem`: Theorem 3.3 alone, -c D with the token's coefficient c = w r A; 0 where the state was not updated. It is
  meant up to one factor;
- `first`: first order in the parameters, the derivative of H along the step that the optimizer really took;
- `second`: second order along that step, to be added;
- `measured`: H after the step minus before.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
import transformers
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from companion.instruments.kernel import contributions, norms
from companion.laboratory import updates
from companion.laboratory.experiment import Experiment, Trainer
from companion.laboratory.ledger import state_entropies
from companion.laboratory.rollout import Rollout, response_logits, sample
from companion.laboratory.rule import Rule
from companion.mathematics.remainder import trust_radius
from companion.puzzles import tasks
from companion.record import Record
from entropy_dynamics import theory
from entropy_dynamics.methods import Terms, TokenBatch

NEVER = 1e3  # stands for an infinite trust radius in a record
DIFFERENCE = 1 / 32  # of the step: central differences along it, whose error is of the order of its square


class Trial(BaseModel):
    """How a step is made: which tokens a rule keeps, and what the optimizer does with their gradient."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Rule = Rule()
    optimizer: str = Field(default="adam", pattern="^(sgd|adam|fresh adam|adamw)$")
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled, with adamw only")
    max_grad_norm: float | None = Field(default=None, gt=0, description="gradients are clipped to it; None leaves them")


class Anatomy(BaseModel):
    """Which run, which of its batches, and which steps are made from each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Experiment = Field(description="the run that the batches come from; it goes on as far as they need")
    trials: dict[str, Trial] = Field(min_length=1)
    at: tuple[int, ...] = Field(default=(2, 10, 20, 30), min_length=1, description="batches of the run")
    updated: float = Field(default=0.5, gt=0, le=1, description="share of the tokens that a step may use")
    kept_states: int = Field(default=96, ge=1, description="states of each kind, batch and trial in the record")
    kernel_states: int = Field(default=64, ge=0, description="updated states of a batch whose kernel is taken apart")

    @model_validator(mode="after")
    def _samples_the_policy_itself(self) -> Anatomy:
        if self.experiment.temperature != 1:
            raise ValueError(f"the experiment's temperature is {self.experiment.temperature}, expected 1")
        return self


def in_float64(policy: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """The policy itself, all of its arithmetic in float64: a Llama's own norms would go through float32."""
    for module in list(policy.modules()):
        for name, child in module.named_children():
            if isinstance(child, transformers.models.llama.modeling_llama.LlamaRMSNorm):
                norm = torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(module, name, norm)
    return policy.double()


class Changes(NamedTuple):
    """Of each state, in nats: first and second order along a step, and the whole change."""

    first: Tensor
    second: Tensor
    measured: Tensor


@torch.no_grad()
def changes_along(parameters: list[Tensor], step: list[Tensor], entropies: Callable[[], Tensor]) -> Changes:
    """How `entropies()` answers to parameters + step; the parameters are left as they were.

    The orders are central differences: in float64 they are good to about six digits.
    """
    start = [parameter.clone() for parameter in parameters]

    def at(share: float) -> Tensor:
        for parameter, origin, change in zip(parameters, start, step):
            parameter.copy_(origin + share * change)
        return entropies()

    try:
        before, after, up, down = (at(share) for share in (0.0, 1.0, DIFFERENCE, -DIFFERENCE))
    finally:
        for parameter, origin in zip(parameters, start):
            parameter.copy_(origin)
    return Changes((up - down) / (2 * DIFFERENCE), (up - 2 * before + down) / (2 * DIFFERENCE**2), after - before)


def run_anatomy(config: Anatomy, weights: dict[str, Tensor]) -> Record:
    """Walk along the run and take steps apart.

    Returns:
        A record whose document holds, by columns, `batches` (means over all states of a kind: at, trial, kind, states,
        theorem, first, second, measured), `states` (the same of single states, with the effective step, its alignment
        and the trust radius where they were updated), `kernel` (see `kernel.contributions`), and of the first batch
        `norms` (see `kernel.norms`).
    """
    trainer = Trainer(config.experiment, weights)
    generator = torch.Generator().manual_seed(config.experiment.seed)
    tables: dict[str, list[dict]] = {"batches": [], "states": [], "kernel": [], "norms": []}
    for number in range(max(config.at) + 1):
        _, rollout, rewards = trainer.rollout()
        if number in config.at:
            for name, rows in _take_apart(
                config, trainer, rollout, rewards, generator, first=number == config.at[0]
            ).items():
                tables[name] += [{"at": number} | row for row in rows]
        trainer.update(rollout, rewards)
    document = {name: columns(rows) for name, rows in tables.items()}
    return Record(document)


def _take_apart(
    config: Anatomy, trainer: Trainer, rollout: Rollout, rewards: Tensor, generator: torch.Generator, *, first: bool
) -> dict[str, list[dict]]:
    policy = in_float64(copy.deepcopy(trainer.policy))
    with torch.no_grad():
        rollout = dataclasses.replace(rollout, logits=response_logits(policy, rollout.prompts, rollout.tokens))
    unseen = _unseen(config, trainer, generator)
    step = config.experiment.step
    batch, _ = updates.observe(policy, rollout, rewards.double(), step)
    drawn = torch.rand(batch.mask.shape, generator=generator) < config.updated
    batches, states = [], []
    for name, trial in config.trials.items():
        terms = trial.rule(batch, generator)
        terms = terms._replace(weights=terms.weights * drawn)
        coefficients = terms.of_log_prob(batch)
        change = _step(policy, trainer.optimizer, trial, rollout, batch, terms, step)
        parameters = list(policy.parameters())
        on_batch = changes_along(parameters, change, lambda: state_entropies(policy, rollout))
        on_unseen = changes_along(parameters, change, lambda: state_entropies(policy, unseen))
        effective = _effective_steps(policy, rollout, change)
        pushed = coefficients != 0
        theorem = -coefficients * batch.statistics.centred

        def describe(chosen: Tensor, c=coefficients, effective=effective, pushed=pushed) -> dict[str, Tensor]:
            values = {"coefficient": c} | effective
            radius = trust_radius(rollout.logits[pushed][chosen], rollout.tokens[pushed][chosen])
            return {n: x[pushed][chosen] for n, x in values.items()} | {"radius": radius.clamp(max=NEVER)}

        others = batch.mask & ~pushed & pushed.any(-1, keepdim=True)
        for kind, mask, changes, more in (
            ("updated", pushed, on_batch, (describe,)),
            ("same responses", others, on_batch, ()),
            ("unseen problems", unseen.mask, on_unseen, ()),
        ):
            own = theorem if changes is on_batch else torch.zeros_like(changes.first)
            values = {n: x[mask] for n, x in ({"theorem": own} | changes._asdict()).items()}
            summarise(batches, states, {"trial": name, "kind": kind}, values, config.kept_states, generator, *more)
    terms = Rule()(batch, generator)
    terms = terms._replace(weights=terms.weights * drawn)
    kernel = contributions(policy, rollout, terms.of_log_prob(batch), config.kernel_states, generator)
    heat = norms(policy, rollout) if first and config.kernel_states else []
    return {"batches": batches, "states": states, "kernel": kernel, "norms": heat}


def _unseen(config: Anatomy, trainer: Trainer, generator: torch.Generator) -> Rollout:
    """Responses of the policy to test problems."""
    size = config.experiment.size
    problems = tasks.split(size, config.experiment.start.task).test[: config.experiment.prompts]
    return sample(
        trainer.policy,
        torch.tensor([tasks.encode(problem.prompt) for problem in problems]),
        group_size=config.experiment.group_size,
        max_tokens=tasks.response_length(size, config.experiment.start.task),
        end=tasks.END,
        temperature=config.experiment.temperature,
        generator=generator,
    )


def _step(
    policy: transformers.PreTrainedModel,
    running: torch.optim.Optimizer,
    trial: Trial,
    rollout: Rollout,
    batch: TokenBatch,
    terms: Terms,
    config: updates.StepConfig,
) -> list[Tensor]:
    """The change of each parameter that a trial makes; the policy and the run's optimizer stay as they are."""
    twin = copy.deepcopy(policy)
    optimizer = make_optimizer(trial, list(twin.parameters()), None if trial.optimizer == "fresh adam" else running)
    updates.ascend(
        twin,
        optimizer,
        rollout,
        batch,
        terms,
        config.model_copy(update={"max_grad_norm": trial.max_grad_norm or torch.inf}),
    )
    return [(new - old).detach() for new, old in zip(twin.parameters(), policy.parameters())]


def make_optimizer(
    trial: Trial, parameters: list[Tensor], running: torch.optim.Optimizer | None = None
) -> torch.optim.Optimizer:
    """The trial's optimizer of the parameters; Adam goes on from the state of the `running` one, if there is one."""
    if trial.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=trial.learning_rate)
    optimizer = torch.optim.Adam(parameters, lr=trial.learning_rate)
    if running is not None:
        optimizer.load_state_dict(copy.deepcopy(running.state_dict()))
    settings = {"lr": trial.learning_rate, "weight_decay": trial.weight_decay, "decoupled_weight_decay": True}
    optimizer.param_groups[0].update(settings)
    return optimizer


@torch.no_grad()
def _effective_steps(policy: transformers.PreTrainedModel, rollout: Rollout, step: list[Tensor]) -> dict[str, Tensor]:
    """What the step did to each state's logits, seen along e_k - p of its token.

    Returns:
        (N, T) each: `alpha`, the multiple of e_k - p nearest to the change of the logits, and `alignment`, the cosine
        between the two (a change of all logits by one number, which softmax does not see, left out).
    """
    moved = copy.deepcopy(policy)
    for parameter, change in zip(moved.parameters(), step):
        parameter.add_(change)
    change = response_logits(moved, rollout.prompts, rollout.tokens) - rollout.logits
    return effective_step(rollout.logits, rollout.tokens, change)


def effective_step(logits: Tensor, tokens: Tensor, change: Tensor) -> dict[str, Tensor]:
    """The multiple `alpha` of e_k - p nearest to a change of the logits (..., V), and the cosine `alignment`; (...)."""
    change = change - change.mean(-1, keepdim=True)
    direction = theory.grpo_logit_update(logits, tokens, 1.0)
    product, square = (torch.linalg.vecdot(direction, x) for x in (change, direction))
    return {"alpha": product / square, "alignment": product / (square.sqrt() * change.norm(dim=-1))}


def summarise(
    batches: list[dict],
    states: list[dict],
    place: dict,
    values: dict[str, Tensor],
    kept: int,
    generator: torch.Generator,
    describe: Callable[[Tensor], dict[str, Tensor]] = lambda _: {},
) -> None:
    """Append the means over all states of a kind to `batches`, and `kept` of the states to `states`.

    `describe` gives more columns for the states whose numbers it is given.
    """
    count = len(values["measured"])
    means = {name: float(f"{value.mean().item():.7g}") for name, value in values.items()}
    batches.append(place | {"states": count} | means)
    chosen = torch.randperm(count, generator=generator)[:kept]
    table = {name: value[chosen] for name, value in values.items()} | describe(chosen)
    for row in zip(*(value.tolist() for value in table.values())):
        states.append(place | {name: float(f"{x:.5g}") for name, x in zip(table, row)})


def columns(rows: list[dict]) -> dict[str, list]:
    """One list a name; None where a row lacks it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
