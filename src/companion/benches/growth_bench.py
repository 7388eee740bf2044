"""How cost grows: time and memory of statistics, loss and training step against tokens, words, width and group size.

Everything is made twice, four times, ... as large along one axis while the rest stays; the slope of log cost over log
size is 1 where cost grows in proportion.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from companion.benches.peak_memory import peak_memory
from companion.benches.ways import WAYS, Case, call, inputs
from companion.laboratory.experiment import Experiment, Trainer
from companion.laboratory.policies import build_policy
from companion.processes import in_fresh_process

STATISTICS = Case("logits", 49_152, 2_048)  # all sizes are compiled, and larger than a cache
LOSS = Case("loss", 49_152, 512, backward=True)
STEP = Experiment(prompts=32)
# What is measured, the axis, its sizes, and the case of a size.
AXES: dict[tuple[str, str], tuple[Sequence[int], Callable[[int], Case | Experiment]]] = {
    ("statistics", "tokens"): ((1_024, 2_048, 4_096, 8_192), lambda n: replace(STATISTICS, tokens=n)),
    ("statistics", "vocabulary"): ((32_768, 65_536, 131_072, 262_144), lambda n: replace(STATISTICS, vocabulary=n)),
    ("loss", "tokens"): ((256, 512, 1_024, 2_048), lambda n: replace(LOSS, tokens=n)),
    ("loss", "vocabulary"): ((16_384, 32_768, 65_536, 131_072), lambda n: replace(LOSS, vocabulary=n)),
    ("loss", "width"): ((256, 512, 1_024, 2_048), lambda n: replace(LOSS, width=n)),
    ("training step", "prompts"): ((32, 64, 128, 256), lambda n: STEP.model_copy(update={"prompts": n})),
    ("training step", "group size"): ((8, 16, 32, 64), lambda n: STEP.model_copy(update={"group_size": n})),
}


def cost(case: Case | Experiment, rounds: int) -> tuple[float, int]:
    """Median seconds and peak extra bytes of one call, after one that does not count."""
    once = _step(case) if isinstance(case, Experiment) else _way(case)
    once()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), peak_memory(once)


def _way(case: Case) -> Callable[[], None]:
    given, ours = inputs(case), next(iter(WAYS[case.source]))
    return lambda: call(ours, case, given)


def _step(config: Experiment) -> Callable[[], None]:
    trainer = Trainer(config, build_policy(config.start).state_dict())

    def once() -> None:
        _, rollout, rewards = trainer.rollout()
        alternating = torch.arange(rewards.shape[-1]).remainder(2).to(rewards.dtype)  # no group without a gradient
        trainer.update(rollout, alternating.expand_as(rewards))

    return once


def measure(*, rounds: int, threads: int) -> list[dict]:
    """One row a size: what, axis, size, milliseconds, megabytes."""
    rows = []
    for (what, axis), (sizes, case) in AXES.items():
        for size in sizes:
            seconds, extra = in_fresh_process(cost, case(size), rounds, threads=threads)
            place = {"what": what, "axis": axis, "size": size}
            rows.append(place | {"milliseconds": 1e3 * seconds, "megabytes": extra / 1e6})
    return rows


def slopes(rows: Sequence[dict]) -> dict[tuple[str, str], tuple[float, float]]:
    """Of time and memory, by what and axis: least squares of log cost over log size; below a megabyte all is alike."""
    found = {}
    for place in dict.fromkeys((row["what"], row["axis"]) for row in rows):
        some = [row for row in rows if (row["what"], row["axis"]) == place]
        sizes = [math.log(row["size"]) for row in some]
        found[place] = tuple(
            statistics.linear_regression(sizes, [math.log(max(row[name], 1.0)) for row in some]).slope
            for name in ("milliseconds", "megabytes")
        )
    return found


def table(rows: Sequence[dict]) -> str:
    """The rows as text, an axis a line."""
    lines = [f"{'':30}{'sizes':>24}{'ms':>28}{'slope':>8}{'extra MB':>28}{'slope':>8}"]
    for (what, axis), (of_time, of_memory) in slopes(rows).items():
        some = [row for row in rows if (row["what"], row["axis"]) == (what, axis)]
        sizes = f"{some[0]['size']:,} to {some[-1]['size']:,}"
        ms = ", ".join(f"{row['milliseconds']:.0f}" for row in some)
        mb = ", ".join(f"{row['megabytes']:.0f}" for row in some)
        lines.append(f"{what + ', ' + axis:30}{sizes:>24}{ms:>28}{of_time:8.2f}{mb:>28}{of_memory:8.2f}")
    return "\n".join(lines)
