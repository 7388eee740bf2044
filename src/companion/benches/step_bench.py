"""Seconds per GRPO step, ours beside TRL's GRPOTrainer, on the same policy, prompts, group size and updates.

Each side runs in a process of its own, one after the other, and both times come from one invocation. Steps count from a
new batch of responses to the updated policy; warm-up steps and evaluation are left out.
"""

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise

import torch

from companion.laboratory.experiment import Experiment, run
from companion.laboratory.policies import character_tokenizer, load_policy
from companion.processes import in_fresh_process
from companion.puzzles import tasks

CONFIG = Experiment(evaluation_samples=1)
# Everything that is not TRL's default: both sides sample, score and update on as many responses. (Ours leaves groups
# whose rewards are all alike out of the backward pass, since their gradient is zero; TRL does not.)
TRL_SETTINGS = {
    "learning_rate": CONFIG.learning_rate,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": CONFIG.prompts * CONFIG.group_size,
    "gradient_accumulation_steps": 1,
    "num_generations": CONFIG.group_size,
    "num_iterations": CONFIG.step.updates,
    "max_completion_length": tasks.response_length(CONFIG.size),
    "temperature": CONFIG.temperature,
    "top_k": 0,
    "beta": 0.0,
    "epsilon": 0.2,
    "loss_type": "dapo",
    "scale_rewards": "group",
    "max_grad_norm": CONFIG.step.max_grad_norm,
    "optim": "adamw_torch",
    "weight_decay": 0.0,
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "report_to": "none",
    "logging_strategy": "no",
    "save_strategy": "no",
    "disable_tqdm": True,
}


def ours(weights: dict, warm_up: int, steps: int) -> tuple[list[float], float]:
    """Seconds a step, from a long and a short run that share start-up and evaluation; the long run's mean reward."""
    torch.use_deterministic_algorithms(True)  # as every record is made

    def timed(count: int) -> tuple[float, float]:
        start = time.perf_counter()
        record = run(CONFIG.model_copy(update={"steps": count}), weights)
        return time.perf_counter() - start, statistics.mean(record.document["series"]["reward"])

    timed(warm_up)
    short, (long, reward) = timed(warm_up)[0], timed(warm_up + steps)
    return [(long - short) / steps], reward


def trl(weights: dict, warm_up: int, steps: int) -> tuple[list[float], float]:
    """Seconds of each step of TRL's GRPOTrainer after the warm-up, and the mean reward of all steps."""
    import datasets
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    problems = tasks.split(CONFIG.size).training
    by_prompt = {problem.prompt: problem for problem in problems}

    rewards: list[float] = []

    def reward(prompts, completion_ids, **_) -> list[float]:
        rewards.extend(float(tasks.is_correct(by_prompt[p], ids)) for p, ids in zip(prompts, completion_ids))
        return rewards[-len(prompts) :]

    ticks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            ticks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=load_policy(CONFIG.start, weights),
            reward_funcs=reward,
            args=GRPOConfig(output_dir=folder, max_steps=warm_up + steps, **TRL_SETTINGS),
            train_dataset=datasets.Dataset.from_dict({"prompt": [problem.prompt for problem in problems]}),
            processing_class=character_tokenizer(),
            callbacks=[Clock()],
        )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it logs
            trainer.train()
    return [after - before for before, after in pairwise(ticks[warm_up - 1 :])], statistics.mean(rewards)


SIDES = {"ours": ours, "TRL": trl}


def side(name: str, weights: dict, warm_up: int, steps: int) -> tuple[float, float]:
    """Median seconds per step of one side, and its mean reward."""
    seconds, reward = SIDES[name](weights, warm_up, steps)
    return statistics.median(seconds), reward


def measure(weights: dict, *, rounds: int, warm_up: int, steps: int) -> list[dict]:
    """One row a number of threads: milliseconds of both sides, and TRL's time over ours, least and most of the rounds.

    Raises:
        RuntimeError: the two do not learn alike, so that their times do not compare.
    """
    rows = []
    for threads in (1, 2):
        found = [
            {name: in_fresh_process(side, name, weights, warm_up, steps, threads=threads) for name in SIDES}
            for _ in range(rounds)
        ]
        reward = {name: statistics.mean(row[name][1] for row in found) for name in SIDES}
        if abs(reward["ours"] - reward["TRL"]) > 0.1:
            raise RuntimeError(f"the two sides do not learn alike: mean rewards {reward}; the times do not compare")
        ratios = [row["TRL"][0] / row["ours"][0] for row in found]
        rows.append(
            {"threads": threads}
            | {name: 1e3 * statistics.median(row[name][0] for row in found) for name in SIDES}
            | {"ratio": statistics.median(ratios), "ratio_least": min(ratios), "ratio_most": max(ratios)}
        )
    return rows


def table(rows: Sequence[dict]) -> str:
    """The rows as text."""
    responses = CONFIG.prompts * CONFIG.group_size
    lines = [f"{CONFIG.prompts} problems x {CONFIG.group_size} responses, {CONFIG.step.updates} update"]
    lines.append(
        f"{'threads':8}{'ours, ms':>10}{'TRL, ms':>10}{'ratio':>8}{'(least, most)':>16}{'ours, responses/s':>20}"
    )
    lines += [
        f"{row['threads']:<8}{row['ours']:10.0f}{row['TRL']:10.0f}{row['ratio']:8.2f}"
        f"{'(' + format(row['ratio_least'], '.2f') + ', ' + format(row['ratio_most'], '.2f') + ')':>16}"
        f"{1e3 * responses / row['ours']:20.0f}"
        for row in rows
    ]
    return "\n".join(lines)
