"""One frozen config gives one training run gives one record."""

import random
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from transformers import PreTrainedModel

from companion.laboratory import tasks, updates
from companion.laboratory.ledger import entropy_ledger
from companion.laboratory.policies import WarmStart, load_policy
from companion.laboratory.quantities import quantities_of, rounded
from companion.laboratory.rollout import Rollout, sample
from companion.record import Record


class Experiment(BaseModel):
    """A training run of the small policy, wholly determined by these values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: WarmStart = WarmStart()
    seed: int = Field(default=0, ge=0, description="of problems, responses and random rules")
    size: int = Field(default=3, ge=2, le=4, description="numbers in a training problem")
    steps: int = Field(default=120, ge=0, description="batches of rollouts; 0 only evaluates the start")
    prompts: int = Field(default=64, ge=1, description="problems in a batch")
    group_size: int = Field(default=8, ge=1, description="responses to each problem")
    temperature: float = Field(default=1.0, gt=0)
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = Field(default=3e-4, gt=0)
    step: updates.StepConfig = updates.StepConfig()
    ledger_every: int = Field(default=0, ge=0, description="steps between entries of the entropy ledger; 0 is none")
    evaluation_samples: int = Field(default=32, ge=1, description="responses to each test problem")
    evaluation_sizes: tuple[int, ...] = Field(default=(3,), min_length=1, description="of the test problems at the end")
    evaluation_temperatures: tuple[float, ...] = Field(default=(1.0,), min_length=1, description="at the end")
    evaluate_every: int = Field(
        default=0, ge=0, description="steps between evaluations at the first size and temperature; 0 is none"
    )

    @model_validator(mode="after")
    def _fits_its_problems(self) -> "Experiment":
        available = len(tasks.split(self.size).training)
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
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from where another trainer's `state` was taken; the config may name another rule."""
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

    def rollout(self) -> tuple[list[tasks.Problem], Rollout, Tensor]:
        """The next batch: its problems, responses and rewards (P, G)."""
        training = tasks.split(self.config.size).training
        problems = [training[i] for i in self._choose.sample(range(len(training)), self.config.prompts)]
        rollout = _rollout(self.policy, problems, self.config.group_size, self.config.temperature, self._sampling)
        return problems, rollout, _rewards(problems, rollout)

    def update(self, rollout: Rollout, rewards: Tensor) -> list[updates.UpdateReport]:
        """Update the policy on the batch."""
        reports = updates.update(
            self.policy,
            self.optimizer,
            rollout,
            rewards,
            self.config.step,
            self.rule_generator,
            entropies=self.entropies,
        )
        self.entropies = reports[0].batch.entropies
        return reports


def run(config: Experiment, weights: dict[str, Tensor]) -> Record:
    """Train from `weights` and evaluate on the test problems.

    Returns:
        A record whose document holds `series`, one list a quantity with one value a step, and `evaluations`, a list
        (see `evaluate`), the last ones of the final policy. Its tensors are the final weights.
    """
    trainer = Trainer(config, weights)
    rows, evaluations = [], []
    first = (config.evaluation_sizes[0], config.evaluation_temperatures[0])
    for number in range(config.steps):
        if config.evaluate_every and number % config.evaluate_every == 0:
            evaluations.append(evaluate(trainer.policy, number, *first, config.evaluation_samples, config.seed))
        ledger = config.ledger_every > 0 and number % config.ledger_every == 0
        rows.append(train_on_batch(trainer, ledger=ledger))
    evaluations += [
        evaluate(trainer.policy, config.steps, size, temperature, config.evaluation_samples, config.seed)
        for size in config.evaluation_sizes
        for temperature in config.evaluation_temperatures
    ]
    series = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    document = {"series": series, "evaluations": evaluations}
    return Record(document, {name: weight.detach().clone() for name, weight in trainer.policy.state_dict().items()})


def train_on_batch(trainer: Trainer, *, ledger: bool) -> dict[str, float | None]:
    """Sample the next batch and update on it; one value a quantity, of the entropy ledger where it is asked for."""
    _, rollout, rewards = trainer.rollout()
    entry = None
    if ledger:
        with entropy_ledger(trainer.policy, rollout) as entry:
            reports = trainer.update(rollout, rewards)
    else:
        reports = trainer.update(rollout, rewards)
    row = quantities_of(rollout, rewards, reports, trainer.config.learning_rate)
    row["ledger_parameters"] = entry and entry.parameters
    row["ledger_measured"] = entry and entry.measured
    return {name: rounded(value) for name, value in row.items()}


def evaluate(policy: PreTrainedModel, step: int, size: int, temperature: float, samples: int, seed: int) -> dict:
    """Sample `samples` responses to each test problem of a size after `step` steps.

    Returns:
        step, size, temperature, samples; of each problem `correct` (right responses) and `distinct` (different right
        expressions); `entropy`, the mean of -log p over all sampled tokens, which estimates the mean entropy in nats.
    """
    generator = torch.Generator().manual_seed(10**6 + seed)
    problems = tasks.split(size).test
    correct, distinct, log_probs = [], [], []
    for start in range(0, len(problems), 32):
        some = problems[start : start + 32]
        rollout = _rollout(policy, some, samples, temperature, generator)
        rewards = _rewards(some, rollout)
        correct += rewards.sum(-1).int().tolist()
        texts = [tasks.decode(row) for row in rollout.tokens.tolist()]
        groups = zip(*[iter(zip(texts, rewards.flatten().tolist()))] * samples)
        distinct += [len({text for text, reward in group if reward}) for group in groups]
        log_probs.append(rollout.log_prob[rollout.mask])
    return {
        "step": step,
        "size": size,
        "temperature": temperature,
        "samples": samples,
        "correct": correct,
        "distinct": distinct,
        "entropy": rounded(-torch.cat(log_probs).mean().item()),
    }


def _rollout(policy, problems, group_size, temperature, generator) -> Rollout:
    prompts = torch.tensor([tasks.encode(problem.prompt) for problem in problems])
    return sample(
        policy,
        prompts,
        group_size=group_size,
        max_tokens=tasks.response_length(len(problems[0].numbers)),
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
