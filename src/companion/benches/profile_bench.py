"""Where the laboratory's time goes, by what is done and by operation, beside the speed of a large matrix product."""

import cProfile
import inspect
import pstats
import time
from collections.abc import Callable, Sequence

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from companion.instruments import anatomy, kernel, probe
from companion.laboratory import experiment, ledger, rollout
from companion.laboratory.quantities import quantities_of
from companion.laboratory.updates import StepConfig
from companion.runs.comparisons import METHODS
from companion.runs.records import reproducible
from entropy_dynamics import grpo

# Whose time is taken with all that they call; of nested ones the outer one's is without the inner one's.
PARTS: dict[str, Callable] = {
    "sampling": rollout.sample,
    "logits of given responses": rollout.response_logits,
    "loss, gradient, optimizer": grpo.step,
    "statistics, advantages": grpo.token_batch,
    "scoring": experiment._rewards,
    "recorded quantities": quantities_of,
    "entropies": ledger.state_entropies,
    "Jacobians": kernel.jacobian,
    "gradients of parts": kernel.ascent_direction,
}
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear"),
    "attention": ("scaled_dot_product", "softmax"),
    "copies": ("copy_", "cat", "clone", "contiguous", "index", "gather", "embedding", "fill_", "zero_", "stack"),
}


def training(weights: dict) -> dict[str, Callable[[], object]]:
    """Batches and an evaluation."""
    small = experiment.Experiment()
    large = experiment.Experiment(prompts=128, step=StepConfig(updates=2))

    def batches(config: experiment.Experiment) -> Callable[[], object]:
        trainer = experiment.Trainer(config, weights)
        return lambda: [experiment.train_on_batch(trainer, ledger=False) for _ in range(5)]

    policy = experiment.Trainer(small, weights).policy
    return {
        "5 batches of 64 x 8, one update": batches(small),
        "5 batches of 128 x 8, two updates": batches(large),
        "evaluation, 128 problems x 32": lambda: experiment.evaluate(policy, 0, 3, 1.0, 32, 0),
    }


def instruments(weights: dict) -> dict[str, Callable[[], object]]:
    """A probe and an anatomy, of one batch each."""
    large = experiment.Experiment(prompts=128, step=StepConfig(updates=2))
    probed = probe.Probe(experiment=large, rules=tuple(METHODS.values())[:3], at=(0,), batches=1)
    step = {"GRPO": anatomy.Trial(learning_rate=3e-4)}
    taken_apart = anatomy.Anatomy(experiment=experiment.Experiment(), trials=step, at=(0,), kernel_states=4)
    return {
        "probe, 3 rules": lambda: probe.run_probe(probed, weights),
        "anatomy, 1 step and 4 states' kernels": lambda: anatomy.run_anatomy(taken_apart, weights),
    }


def peak() -> float:
    """GFLOP/s of a product of matrices of 768 x 768."""
    a, b = torch.rand(768, 768), torch.rand(768, 768)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * 768**3 / sorted(seconds)[len(seconds) // 2] / 1e9


def measure(weights: dict) -> list[dict]:
    """One row a job, in one thread: seconds and the shares of its parts, and of training and evaluation also GFLOP,
    the peak beside it, and the shares of operations, of which the instruments have too many to be kept."""
    rows, trained = [], training(weights)
    with reproducible():
        for name, job in (trained | instruments(weights)).items():
            job()
            fastest, start = peak(), time.perf_counter()
            job()
            rows.append({"job": name, "seconds": time.perf_counter() - start, "parts": _parts(job)})
            if name in trained:
                with FlopCounterMode(display=False) as flops:
                    job()
                rows[-1] |= {"gflop": flops.get_total_flops() / 1e9, "peak": fastest, "operations": _operations(job)}
    return rows


def _parts(job: Callable[[], object]) -> dict[str, float]:
    """Shares of the time; the rest is what no part has."""
    profiler = cProfile.Profile()
    profiler.runcall(job)
    stats = pstats.Stats(profiler)
    codes = {inspect.unwrap(function).__code__: part for part, function in PARTS.items()}
    place = {(code.co_filename, code.co_firstlineno): part for code, part in codes.items()}
    names = {key: place[key[:2]] for key in stats.stats if key[:2] in place}
    total = dict.fromkeys(PARTS, 0.0)
    for key, part in names.items():
        *_, cumulative, callers = stats.stats[key]
        total[part] += cumulative
        for caller, (*_, within) in callers.items():
            if caller in names:
                total[names[caller]] -= within
    shares = {part: seconds / stats.total_tt for part, seconds in total.items() if seconds}
    return shares | {"rest": 1 - sum(shares.values())}


def _operations(job: Callable[[], object]) -> dict[str, float]:
    with profile(activities=[ProfilerActivity.CPU]) as found:
        job()
    events = [(e.key, e.self_cpu_time_total) for e in found.key_averages() if e.key.startswith("aten::")]
    seconds = dict.fromkeys([*KINDS, "all others"], 0.0)
    for key, own in events:
        operation = key.removeprefix("aten::").removeprefix("_")
        kind = next((k for k, starts in KINDS.items() if operation.startswith(starts)), "all others")
        seconds[kind] += own
    total = sum(seconds.values())
    return {kind: value / total for kind, value in seconds.items()}


def table(rows: Sequence[dict]) -> str:
    """The rows as text."""
    lines = []
    for row in rows:
        lines.append(f"{row['job']}: {row['seconds']:.2f} s")
        if "gflop" in row:
            speed = row["gflop"] / row["seconds"]
            lines[-1] += (
                f", {row['gflop']:.1f} GFLOP, {speed:.0f} of {row['peak']:.0f} GFLOP/s ({speed / row['peak']:.0%})"
            )
        for title in ("parts", "operations"):
            shares = sorted(row.get(title, {}).items(), key=lambda item: -item[1])
            if shares:
                lines.append(f"  {title}: " + ", ".join(f"{n} {share:.0%}" for n, share in shares if share >= 0.005))
    return "\n".join(lines)
