"""One frozen config gives one training run gives one record."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import torch
import transformers
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from companion.laboratory import updates
from companion.laboratory.ledger import entropy_ledger
from companion.laboratory.policies import WarmStart, load_policy
from companion.laboratory.quantities import quantities_of, rounded
from companion.laboratory.rollout import Rollout, response_logits, sample
from companion.puzzles import tasks
from companion.record import Record


class Variant(BaseModel):
    """Another policy that a run's weights make, or another temperature to sample it at: what costs no training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(default=1.0, gt=0)
    start_share: float = Field(default=0.0, ge=0, le=1, description="of the start's weights in their average with it")
    averaged: int = Field(default=1, ge=1, description="policies of the last evaluations whose weights are averaged")


class Experiment(BaseModel):
    """A training run of the small policy, wholly determined by these values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: WarmStart = WarmStart()
    seed: int = Field(default=0, ge=0, description="of problems, responses and random rules")
    size: int = Field(default=3, ge=1, description="of the training problems, such as how many numbers they have")
    steps: int = Field(default=120, ge=0, description="batches of rollouts; 0 only evaluates the start")
    prompts: int = Field(default=64, ge=1, description="problems in a batch")
    group_size: int = Field(default=8, ge=1, description="responses to each problem")
    temperature: float = Field(default=1.0, gt=0)
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = Field(default=3e-4, gt=0)
    step: updates.StepConfig = updates.StepConfig()
    ledger_every: int = Field(default=0, ge=0, description="steps between entries of the entropy ledger; 0 is none")
    evaluation_samples: int = Field(default=32, ge=1, description="responses to each held-out problem")
    evaluation_sizes: tuple[int, ...] = Field(default=(3,), min_length=1, description="of the held-out problems")
    evaluation_temperatures: tuple[float, ...] = Field(default=(1.0,), min_length=1, description="at the end")
    evaluate_every: int = Field(
        default=0, ge=0, description="steps between evaluations of all sizes at the first temperature; 0 is none"
    )
    problems: Literal["validation", "test"] = Field(default="validation", description="held out, of the evaluations")
    evaluation_draws: Literal["same", "fresh"] = Field(
        default="same", description="whether evaluations after different steps share their random numbers"
    )
    kl_from_start: bool = Field(default=False, description="whether evaluations measure it")
    variants: tuple[Variant, ...] = Field(default=(), description="evaluated beside the policy, at the last steps")
    variants_at: int = Field(default=4, ge=1, description="how many of the last evaluations have the variants, too")
    plan: str | None = Field(default=None, description="checksum of the plan that the run was laid down in")

    @model_validator(mode="after")
    def _fits_its_problems(self) -> Experiment:
        available = len(tasks.split(self.size, self.start.task).training)
        if self.prompts > available:
            raise ValueError(f"prompts is {self.prompts}, expected at most {available}, the training problems")
        return self


class Trainer:
    """A policy on its way through an experiment: `rollout` and `update` in turns, `config.steps` times."""

    def __init__(self, config: Experiment, weights: dict[str, Tensor]):
        self.config = config
        self.policy = load_policy(config.start, weights)
        make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[config.optimizer]
        self.optimizer = make(self.policy.parameters(), lr=config.learning_rate)
        # Separate generators: arms that differ in their rule see the same problems, and the same draws until they part.
        self._choose = random.Random(config.seed)
        self._sampling, self.rule_generator = (torch.Generator().manual_seed(2 * config.seed + i) for i in range(2))
        self.entropies: tuple[float, ...] = ()
        self.start = load_policy(config.start, weights) if _needs_start(config) else None
        self.controller = config.step.control and config.step.control.controller(len(tasks.ALPHABET))

    def state(self) -> dict[str, Tensor]:
        """All that the rest of the run depends on, as tensors by name; `restore` takes it."""
        tensors = {f"policy.{name}": weight.clone() for name, weight in self.policy.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value.clone() for name, value in moments.items()}
        version, numbers, _ = self._choose.getstate()
        return tensors | {
            "choose": torch.tensor([version, *numbers]),
            "sampling": self._sampling.get_state(),
            "rule": self.rule_generator.get_state(),
            "entropies": torch.tensor(self.entropies, dtype=torch.float64),
            **{f"controller.{name}": torch.tensor(x, dtype=torch.float64) for name, x in self._of_controller().items()},
        }

    def _of_controller(self) -> dict[str, float]:
        return self.controller.state_dict() if self.controller else {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from where another trainer's `state` was taken; the config may name another rule or a controller."""
        self.policy.load_state_dict(
            {name.removeprefix("policy."): x for name, x in tensors.items() if name.startswith("policy.")}
        )
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                moments.setdefault(int(number), {})[key] = value.clone()
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        version, *numbers = tensors["choose"].tolist()
        self._choose.setstate((version, tuple(numbers), None))
        self._sampling.set_state(tensors["sampling"])
        self.rule_generator.set_state(tensors["rule"])
        self.entropies = tuple(tensors["entropies"].tolist())
        if self.controller:
            state = {name: tensors.get(f"controller.{name}", x) for name, x in self.controller.state_dict().items()}
            self.controller.load_state_dict(state)

    def rollout(self) -> tuple[list[tasks.Problem], Rollout, Tensor]:
        """The next batch: its problems, responses and rewards (P, G)."""
        training = tasks.split(self.config.size, self.config.start.task).training
        problems = [training[i] for i in self._choose.sample(range(len(training)), self.config.prompts)]
        length = tasks.response_length(self.config.size, self.config.start.task)
        rollout = _rollout(
            self.policy, problems, self.config.group_size, self.config.temperature, self._sampling, length
        )
        return problems, rollout, _rewards(problems, rollout)

    def update(self, rollout: Rollout, rewards: Tensor) -> list[updates.UpdateReport]:
        """Update the policy on the batch."""
        reference = _log_probs(self.start, rollout) if self.config.step.rule.name == "reference_kl" else None
        reports = updates.update(
            self.policy,
            self.optimizer,
            rollout,
            rewards,
            self.config.step,
            self.rule_generator,
            entropies=self.entropies,
            reference=reference,
            controller=self.controller,
        )
        self.entropies = reports[0].batch.entropies
        return reports


def run(config: Experiment, weights: dict[str, Tensor]) -> Record:
    """Train from `weights` and evaluate on held-out problems.

    Returns:
        A record whose document holds `series`, one list a quantity with one value a step, and `evaluations`, a list
        (see `evaluate`), the last ones of the final policy. Its tensors are the final weights.
    """
    trainer = Trainer(config, weights)
    evaluations, kept = [], []
    rows: list[dict[str, float | None]] = []
    evaluated = [*(range(0, config.steps, config.evaluate_every) if config.evaluate_every else ()), config.steps]
    for number in range(config.steps + 1):
        if number in evaluated:
            kept.append({name: weight.detach().clone() for name, weight in trainer.policy.state_dict().items()})
            last, variants = number == config.steps, number in evaluated[-config.variants_at :]
            evaluations += _evaluations(trainer, number, kept, weights, last=last, variants=variants)
        if number < config.steps:
            ledger = config.ledger_every > 0 and number % config.ledger_every == 0
            rows.append(train_on_batch(trainer, ledger=ledger))
    series = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    return Record({"series": series, "evaluations": evaluations}, kept[-1])


def _evaluations(
    trainer: Trainer,
    step: int,
    kept: Sequence[dict[str, Tensor]],
    start: dict[str, Tensor],
    *,
    last: bool,
    variants: bool,
) -> list[dict]:
    """The policy's on every size, at every temperature if they are the last ones, and those of its variants."""
    config, found = trainer.config, []
    draws = 10**6 + config.seed + (1000 * (1 + step) if config.evaluation_draws == "fresh" else 0)
    common = {"samples": config.evaluation_samples, "draws": draws}
    common |= {"task": config.start.task, "problems": config.problems}
    for size in config.evaluation_sizes:
        for temperature in config.evaluation_temperatures if last else config.evaluation_temperatures[:1]:
            reference = trainer.start if config.kl_from_start else None
            found.append(evaluate(trainer.policy, step, size, temperature, reference=reference, **common))
    for variant in config.variants if variants else ():
        policy = load_policy(config.start, _averaged(kept[-variant.averaged :], start, variant.start_share))
        for size in config.evaluation_sizes:
            found.append(evaluate(policy, step, size, variant.temperature, **common))
            found[-1] |= {"start_share": variant.start_share, "averaged": variant.averaged}
    return found


def _averaged(weights: Sequence[dict[str, Tensor]], start: dict[str, Tensor], start_share: float) -> dict[str, Tensor]:
    """The mean of some policies' weights, and `start_share` of the start's."""
    means = {name: torch.stack([some[name] for some in weights]).mean(0) for name in start}
    return {name: torch.lerp(mean, start[name], start_share) for name, mean in means.items()}


def train_on_batch(trainer: Trainer, *, ledger: bool) -> dict[str, float | None]:
    """Sample the next batch and update on it; one value a quantity, of the entropy ledger where it is asked for."""
    _, rollout, rewards = trainer.rollout()
    entry = None
    if ledger:
        with entropy_ledger(trainer.policy, rollout) as entry:
            reports = trainer.update(rollout, rewards)
    else:
        reports = trainer.update(rollout, rewards)
    row = quantities_of(rollout, rewards, reports, trainer.config.learning_rate, trainer.config.step.parts)
    if control := trainer.config.step.control:
        row["strength"] = reports[0].rule.options[control.option]
    row["ledger_parameters"] = entry and entry.parameters
    row["ledger_measured"] = entry and entry.measured
    return {name: rounded(value) for name, value in row.items()}


def evaluate(
    policy: transformers.PreTrainedModel,
    step: int,
    size: int,
    temperature: float,
    samples: int,
    draws: int,
    *,
    task: str = "countdown",
    problems: Literal["validation", "test"] = "validation",
    reference: transformers.PreTrainedModel | None = None,
) -> dict:
    """Sample `samples` responses to each held-out problem of a size after `step` steps, with `draws` as random seed.

    Returns:
        step, size, temperature, samples; of each problem `correct` (right responses) and `distinct` (different right
        expressions); `entropy`, the mean of -log p over all sampled tokens, which estimates the mean entropy in nats;
        and, with a `reference`, `kl`, the mean of log p - log p_reference, which estimates KL(policy || reference) a
        token.
    """
    generator = torch.Generator().manual_seed(draws)
    held_out = getattr(tasks.split(size, task), problems)
    correct, distinct, log_probs, references = [], [], [], []
    for start in range(0, len(held_out), 32):
        some = held_out[start : start + 32]
        rollout = _rollout(policy, some, samples, temperature, generator, tasks.response_length(size, task))
        rewards = _rewards(some, rollout)
        correct += rewards.sum(-1).int().tolist()
        texts = [tasks.decode(row) for row in rollout.tokens.tolist()]
        groups = zip(*[iter(zip(texts, rewards.flatten().tolist()))] * samples)
        distinct += [len({text for text, reward in group if reward}) for group in groups]
        log_probs.append(rollout.log_prob[rollout.mask])
        if reference is not None:
            references.append(_log_probs(reference, rollout)[rollout.mask])
    log_prob = torch.cat(log_probs)
    found = {
        "step": step,
        "size": size,
        "temperature": temperature,
        "samples": samples,
        "correct": correct,
        "distinct": distinct,
        "entropy": rounded(-log_prob.mean().item()),
    }
    return found | ({"kl": rounded((log_prob - torch.cat(references)).mean().item())} if references else {})


def _needs_start(config: Experiment) -> bool:
    return config.kl_from_start or config.step.rule.name == "reference_kl"


@torch.no_grad()
def _log_probs(policy: transformers.PreTrainedModel, rollout: Rollout) -> Tensor:
    """(N, T): log-probabilities of the rollout's tokens under another policy, at the rollout's temperature."""
    logits = response_logits(policy, rollout.prompts, rollout.tokens) / rollout.temperature
    return logits.log_softmax(-1).gather(-1, rollout.tokens.unsqueeze(-1)).squeeze(-1)


def _rollout(policy, problems, group_size, temperature, generator, response_length) -> Rollout:
    prompts = torch.tensor([tasks.encode(problem.prompt) for problem in problems])
    return sample(
        policy,
        prompts,
        group_size=group_size,
        max_tokens=response_length,
        end=tasks.END,
        temperature=temperature,
        generator=generator,
    )


def _rewards(problems: Sequence[tasks.Problem], rollout: Rollout) -> Tensor:
    """(P, G) float: 1 for a right response, else 0."""
    rows = rollout.tokens.masked_fill(~rollout.mask, tasks.PAD).tolist()
    size = rollout.group_size
    return torch.tensor(
        [[float(tasks.is_correct(p, row)) for row in rows[i * size : (i + 1) * size]] for i, p in enumerate(problems)]
    )
