"""Seconds per GRPO step, ours beside TRL's GRPOTrainer, on the same policy, prompts, group size and updates.

Each side runs in a process of its own, one after the other, and both times come from one invocation. Steps count from a
new batch of responses to the updated policy; warm-up steps and evaluation are left out.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from itertools import pairwise

import torch

from companion.laboratory import tasks
from companion.laboratory.experiment import Experiment, run
from companion.laboratory.policies import character_tokenizer, load_policy
from companion.runs.comparisons import start_run
from companion.runs.records import load_or_run
from companion.runs.store import Store

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
        trainer.train()
    return [after - before for before, after in pairwise(ticks[warm_up - 1 :])], statistics.mean(rewards)


def measure(side: str, threads: int, warm_up: int, steps: int) -> tuple[float, float]:
    """Median seconds per step of one side in a fresh process, and its mean reward."""
    command = [sys.executable, "-m", "companion.benches.step_bench", "--side", side]
    options = {"--threads": threads, "--warm-up": warm_up, "--steps": steps}
    command += [str(word) for pair in options.items() for word in pair]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"{side} failed:\n{done.stderr[-3000:]}")
    seconds, reward = json.loads(done.stdout.splitlines()[-1])
    return statistics.median(seconds), reward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40, help="measured steps of each run")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before them")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side, in turns")
    parser.add_argument("--store", default="build/runs", help="where a starting policy is kept that is made anew")
    parser.add_argument("--committed", default="data/runs", help="has the starting policy")
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.steps, options.warm_up, options.rounds) < 1:
        parser.error("--steps, --warm-up and --rounds must be at least 1")
    weights = load_or_run(start_run(CONFIG.start), Store(options.store, options.committed)).tensors
    if options.side:
        torch.set_num_threads(options.threads)
        sides = {"ours": ours, "trl": trl}
        print(json.dumps(sides[options.side](weights, options.warm_up, options.steps)))
        return
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "trl")}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {versions}")
    print(f"TRL: {TRL_SETTINGS}")
    responses = CONFIG.prompts * CONFIG.group_size
    print(
        f"{CONFIG.prompts} prompts x {CONFIG.group_size} responses, {options.rounds} rounds of {options.steps} steps\n"
    )
    print(f"{'threads':8}{'ours, s/step':>14}{'TRL, s/step':>14}{'ratio':>8}{'ours, responses/s':>20}")
    for threads in (1, 2):
        rounds = [
            {side: measure(side, threads, options.warm_up, options.steps) for side in ("ours", "trl")}
            for _ in range(options.rounds)
        ]
        typical = {side: statistics.median(row[side][0] for row in rounds) for side in ("ours", "trl")}
        ratio = statistics.median(row["trl"][0] / row["ours"][0] for row in rounds)
        print(
            f"{threads:<8}{typical['ours']:14.3f}{typical['trl']:14.3f}{ratio:8.2f}{responses / typical['ours']:20.0f}"
        )
        reward = {side: statistics.mean(row[side][1] for row in rounds) for side in ("ours", "trl")}
        if abs(reward["ours"] - reward["trl"]) > 0.1:
            raise RuntimeError(f"the two sides do not learn alike: mean rewards {reward}; the times do not compare")


if __name__ == "__main__":
    main()
