"""One update with and without each rule, from the same policy and on the same batch: what the lens predicts, measured.

Along a run of plain GRPO, at chosen steps, every rule is tried on the batch at hand: on fresh responses (update 0,
where all ratios are 1) and on the same responses after one update of plain GRPO (update 1). The run itself goes on
undisturbed. Each trial is made with the run's own optimizer and state, and with plain SGD.
"""

import copy

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from companion.laboratory import updates
from companion.laboratory.experiment import Experiment, Trainer
from companion.laboratory.ledger import state_entropies
from companion.laboratory.rollout import Rollout
from companion.laboratory.rule import Rule
from companion.puzzles import tasks
from companion.record import Record
from entropy_dynamics.lens import predicted_change
from entropy_dynamics.methods import TokenBatch


class Probe(BaseModel):
    """Which run, which of its steps, and which rules; the first rule is what the others are compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Experiment
    rules: tuple[Rule, ...] = Field(min_length=1)
    at: tuple[int, ...] = Field(default=(5, 60), min_length=1, description="steps at which probing begins")
    batches: int = Field(default=2, ge=1, description="successive batches that are probed each time")
    sgd_learning_rate: float = Field(
        default=0.003, gt=0, description="of the trials with SGD; gradients are not clipped"
    )


def run_probe(config: Probe, weights: dict[str, Tensor]) -> Record:
    """Train from `weights` and probe on the way.

    Returns:
        A record whose document holds `effects`, a table by columns with a row for each (at, batch, update, rule):
        predicted, the mean of `lens.predicted_change` over the tokens; adam and sgd, the measured changes of the mean
        entropy over the batch's states in nats; and `texts`, of the first batch of each `at` the problem and response
        of each row. Its tensors are the columns of a table of tokens of those batches (see `_tokens`).
    """
    trainer = Trainer(config.experiment, weights)
    effects, texts, tables = [], [], []
    for number in range(max(config.at) + config.batches):
        problems, rollout, rewards = trainer.rollout()
        begun = [at for at in config.at if at <= number < at + config.batches]
        for at in begun:
            rows, tokens = _probe_batch(config, trainer, rollout, rewards, first=number == at)
            place = {"at": at, "batch": number - at}
            effects += [place | row for row in rows]
            if number == at:
                names = [p.prompt for p in problems for _ in range(rollout.group_size)]
                texts.append([[name, tasks.decode(row)] for name, row in zip(names, rollout.tokens.tolist())])
                tables.append({"at": torch.full_like(tokens["row"], at)} | tokens)
        trainer.update(rollout, rewards)
    columns = {name: [row[name] for row in effects] for name in effects[0]}
    document = {"effects": columns, "texts": texts}
    return Record(document, {name: torch.cat([table[name] for table in tables]) for name in tables[0]})


def _probe_batch(
    config: Probe, trainer: Trainer, rollout: Rollout, rewards: Tensor, *, first: bool
) -> tuple[list[dict], dict[str, Tensor]]:
    """The rows of `effects` for one batch, and its table of tokens if it is the `first` one."""
    step = config.experiment.step
    generator = torch.Generator().manual_seed(config.experiment.seed)
    policy, optimizer = _twin(trainer.policy, trainer.optimizer, config.experiment.learning_rate)
    rows, tables, batch = [], [], None
    for update in range(2):
        batch, logits = updates.observe(
            policy, rollout, rewards, step, first=batch, update=update, entropies=trainer.entropies
        )
        before = state_entropies(policy, rollout)
        for number, rule in enumerate(config.rules):
            terms = rule(batch, generator)
            predicted = predicted_change(batch, terms, logits, rollout.temperature)
            adam, adam_optimizer = _twin(policy, optimizer, config.experiment.learning_rate)
            updates.ascend(adam, adam_optimizer, rollout, batch, terms, step)
            change = state_entropies(adam, rollout) - before
            sgd = copy.deepcopy(policy)
            plain = torch.optim.SGD(sgd.parameters(), lr=config.sgd_learning_rate)
            unclipped = step.model_copy(update={"max_grad_norm": torch.inf})
            updates.ascend(sgd, plain, rollout, batch, terms, unclipped)
            means = {
                "predicted": predicted,
                "adam": change,
                "sgd": state_entropies(sgd, rollout) - before,
            }
            means = {name: float(f"{value[rollout.mask].mean().item():.7g}") for name, value in means.items()}
            rows.append({"update": update, "rule": number} | means)
            if first and number == 0:
                tables.append(_tokens(batch, rollout, predicted, change))
        updates.ascend(policy, optimizer, rollout, batch, step.rule(batch, generator), step)
    return rows, {name: torch.cat([table[name] for table in tables]) for name in tables[0]} if tables else {}


def _tokens(batch: TokenBatch, rollout: Rollout, predicted: Tensor, change: Tensor) -> dict[str, Tensor]:
    """One entry a response token: where it is, its statistics, and its state's predicted and measured change."""
    row, position = batch.mask.nonzero(as_tuple=True)
    statistics = batch.statistics
    values = {
        "probability": statistics.log_prob.exp(),
        "entropy": statistics.entropy,
        "discriminator": statistics.discriminator,
        "centred": statistics.centred,
        "advantage": batch.advantages,
        "ratio": batch.ratio,
        "predicted": predicted,
        "measured": change,
    }
    places = {"update": torch.full_like(row, batch.update), "row": row, "position": position}
    return places | {"token": rollout.tokens[batch.mask]} | {name: value[batch.mask] for name, value in values.items()}


def _twin(policy, optimizer, learning_rate: float):
    """Copies of a policy and of its optimizer with its state."""
    twin = copy.deepcopy(policy)
    copied = type(optimizer)(twin.parameters(), lr=learning_rate)
    copied.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # loading alone would share the tensors
    return twin, copied
