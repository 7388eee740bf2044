"""One frozen config gives one training run gives one record; many configs run in parallel processes."""

import contextlib
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from entropy_dynamics import grpo, tasks
from entropy_dynamics.files import sha256
from entropy_dynamics.ledger import entropy_ledger
from entropy_dynamics.policies import WarmStart, load_policy, warm_start
from entropy_dynamics.rollout import Rollout, sample
from entropy_dynamics.sampling import centred_variance
from entropy_dynamics.store import Record, Store, digest

PACKAGE = Path(__file__).parent
# What a record depends on. Modules that only draw, run notebooks or keep files are not among them.
SOURCES = [
    f"{name}.py"
    for name in (
        *("experiment", "grpo", "ledger", "methods", "policies"),
        *("rollout", "sampling", "tasks", "theory", "token_statistics"),
    )
]
LIBRARIES = ("torch", "transformers", "numpy")


class Experiment(BaseModel):
    """A training run of the small policy, wholly determined by these values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: WarmStart = WarmStart()
    seed: int = Field(default=0, ge=0, description="of problems, responses and random rules")
    size: int = Field(default=3, ge=2, le=4, description="numbers in a training problem")
    steps: int = Field(default=120, ge=1, description="batches of rollouts")
    prompts: int = Field(default=64, ge=1, description="problems in a batch")
    group_size: int = Field(default=8, ge=1, description="responses to each problem")
    temperature: float = Field(default=1.0, gt=0)
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = Field(default=3e-4, gt=0)
    correction: Literal[0, 1] = Field(default=1, description="group deviation: 1 sample (as released), 0 population")
    step: grpo.StepConfig = grpo.StepConfig()
    ledger_every: int = Field(default=0, ge=0, description="steps between entries of the entropy ledger; 0 is none")
    evaluation_samples: int = Field(default=32, ge=1, description="responses to each test problem at the end")
    evaluation_temperature: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _fits_its_problems(self) -> "Experiment":
        available = len(tasks.split(self.size).training)
        if self.prompts > available:
            raise ValueError(f"prompts is {self.prompts}, expected at most {available}, the training problems")
        return self


def run(config: Experiment, weights: dict[str, Tensor]) -> Record:
    """Train from `weights` and evaluate on the test problems.

    Returns:
        A record whose document holds `series`, one list a quantity with one value a step, and `evaluation` (see
        `evaluate`). Its tensors are the final weights.
    """
    policy = load_policy(config.start, weights)
    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[config.optimizer]
    optimizer = make(policy.parameters(), lr=config.learning_rate)
    # Separate generators: arms that differ in their rule see the same problems, and the same draws until they diverge.
    choose = random.Random(config.seed)
    sampling, rule = (torch.Generator().manual_seed(2 * config.seed + i) for i in range(2))
    problems = tasks.split(config.size).training
    rows = []
    for number in range(config.steps):
        chosen = [problems[i] for i in choose.sample(range(len(problems)), config.prompts)]
        rollout = _rollout(policy, chosen, config.group_size, config.temperature, sampling)
        rewards = _rewards(chosen, rollout)
        advantages = grpo.group_advantages(rewards, correction=config.correction).flatten()
        arguments = (policy, optimizer, rollout, advantages, config.step, rule)
        entry = None
        if config.ledger_every and number % config.ledger_every == 0:
            with entropy_ledger(policy, rollout) as entry:
                reports = grpo.update(*arguments)
        else:
            reports = grpo.update(*arguments)
        row = _summary(rollout, rewards, advantages, reports, config.learning_rate)
        row["ledger_parameters"] = entry and entry.parameters
        row["ledger_measured"] = entry and entry.measured
        rows.append(row)
    series = {name: [row[name] for row in rows] for name in rows[0]}
    evaluation = evaluate(policy, config.size, config.evaluation_samples, config.evaluation_temperature, config.seed)
    document = {"config": config.model_dump(mode="json"), "series": series, "evaluation": evaluation}
    return Record(document, {name: weight.detach().clone() for name, weight in policy.state_dict().items()})


def evaluate(policy: PreTrainedModel, size: int, samples: int, temperature: float, seed: int) -> dict:
    """Sample `samples` responses to each test problem of a size.

    Returns:
        samples, and of each problem `correct` (right responses) and `distinct` (different right expressions);
        `entropy`, the mean of -log p over all sampled tokens, which estimates the mean entropy in nats.
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
    entropy = -torch.cat(log_probs).mean().item()
    return {"samples": samples, "correct": correct, "distinct": distinct, "entropy": entropy}


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


def _summary(rollout: Rollout, rewards: Tensor, advantages: Tensor, reports, learning_rate: float) -> dict:
    """One value a quantity; statistics of the policy are those before the first update, on the sampled tokens."""
    mask = rollout.mask
    first = reports[0]
    a = advantages.unsqueeze(-1).expand(mask.shape)[mask]
    s, d, h = (x[mask] for x in (first.statistics.discriminator, first.statistics.centred, first.statistics.entropy))
    d_now = torch.stack([report.statistics.centred[mask] for report in reports])
    w = torch.stack([report.weights[mask] for report in reports])
    r = torch.stack([report.ratio[mask] for report in reports])
    clipped = torch.stack([report.clipped[mask] for report in reports])
    effect = w * r * ~clipped * a * d_now
    variance = centred_variance(first.logits[mask].double() / rollout.temperature)
    positive, negative = a > 0, a < 0

    def share(what: Tensor, where: Tensor) -> float | None:
        return what[:, where].float().mean().item() if where.any() else None

    return {
        "reward": rewards.mean().item(),
        "tokens": int(mask.sum()),
        "entropy": h.mean().item(),
        "mean_s": s.mean().item(),
        "mean_d": d.mean().item(),
        "mean_d_standard_error": variance.sum().sqrt().item() / len(d),
        "cov_a_d": ((a - a.mean()) * (d - d.mean())).mean().item(),
        "ledger_logits": -learning_rate * effect.mean(1).sum().item(),
        "masked_positive": share(w == 0, positive),
        "masked_negative": share(w == 0, negative),
        "ratio_mean": r.mean().item(),
        "ratio_max": r.max().item(),
        "clipped_positive": share(clipped, positive),
        "clipped_negative": share(clipped, negative),
        "gradient_norm": sum(report.gradient_norm for report in reports) / len(reports),
    }


def _read_origin() -> dict[str, str]:
    sources = {name: sha256(PACKAGE / name) for name in SOURCES}
    return sources | {name: metadata.version(name) for name in LIBRARIES}


_ORIGIN = _read_origin()  # of the code that this process has loaded, whatever happens to the files later


def origin() -> dict[str, str]:
    """What a record depends on besides its config: the source files' hashes and the library versions."""
    return _ORIGIN


def record_key(config: Experiment | WarmStart) -> str:
    """The key of a config's record in a store."""
    return digest({"kind": type(config).__name__, "config": config.model_dump(mode="json"), "origin": origin()})


def load_or_run(config: Experiment | WarmStart, store: Store) -> Record:
    """The record of a config, computed and stored if the store has none; so is the warm start that a run needs.

    Raises:
        RuntimeError: the source files changed since this process loaded them, so that a new record would not be theirs.
    """

    def make() -> tuple[Record, float]:
        if _read_origin() != origin():
            raise RuntimeError("the package's files changed since this process started; start it anew")
        start = time.perf_counter()
        with _reproducible():
            if isinstance(config, WarmStart):
                weights = warm_start(config)
                evaluation = evaluate(load_policy(config, weights), config.size, 32, 1.0, config.seed)
                record = Record({"config": config.model_dump(mode="json"), "evaluation": evaluation}, weights)
            else:
                record = run(config, start_weights)
        record.document["origin"] = origin()
        return record, time.perf_counter() - start

    key = record_key(config)
    if (record := store.get(key)) is not None:
        return record
    start_weights = load_or_run(config.start, store).tensors if isinstance(config, Experiment) else {}
    return store.compute(key, make)


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    """One thread and deterministic algorithms, whatever the caller has set: a record must not depend on it."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def run_all(configs: Sequence[Experiment], store: Store, *, jobs: int = 2) -> list[Record]:
    """The records of all configs, in order; the missing ones are computed `jobs` at a time, one thread each.

    What was finished before an interruption or an error is in the store and is not computed again.

    Raises:
        RuntimeError: a run failed; names its config.
    """
    missing = {record_key(config): config for config in configs if store.get(record_key(config)) is None}
    starts = {record_key(c.start): c.start for c in missing.values() if store.get(record_key(c.start)) is None}
    for stage, name in ((starts, "warm starts"), (missing, "runs")):
        if stage:
            _compute(list(stage.values()), store, jobs, name)
    return [load_or_run(config, store) for config in configs]


def _compute(configs: list, store: Store, jobs: int, name: str) -> None:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(configs)), context, initializer=_start_worker)
    try:
        futures = {pool.submit(_store_one, config, store.root): config for config in configs}
        for future in tqdm(as_completed(futures), total=len(futures), desc=name, unit="run"):
            try:
                future.result()
            except Exception as error:
                raise RuntimeError(f"the run of {futures[future]!r} failed: {type(error).__name__}: {error}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _store_one(config: Experiment | WarmStart, root: Path) -> None:
    load_or_run(config, Store(root))


def _start_worker() -> None:
    """No life without the parent, which may be killed at any moment."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
