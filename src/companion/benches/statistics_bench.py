"""What token statistics and the loss cost in time and memory, ours beside the ways in use.

Times of one case come from one process in which the ways take turns, peak memory from another one.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, fields

import torch

from companion.benches.peak_memory import peak_memory
from companion.benches.ways import WAYS, Case, call, inputs, ways
from companion.processes import in_fresh_process
from entropy_dynamics import theory
from entropy_dynamics.token_statistics import token_statistics

HEADS = ((576, 49_152), (1_024, 151_936))  # width and vocabulary of SmolLM2-135M and of Qwen3-0.6B
CASES = [
    *(Case("logits", v) for v in (1_024, 8_192, 49_152, 151_936)),
    *(Case("logits", v, backward=True) for v in (49_152, 151_936)),
    *(Case("hidden states", v, t, w, backward=True) for w, v in HEADS for t in (384, 1_024)),
    *(Case("loss", v, t, w, backward=True) for w, v in HEADS for t in (384, 1_024, 4_096)),
]


def seconds_of_each(case: Case, rounds: int) -> dict[str, list[float]]:
    """Seconds of every way in every round; before them each way is warmed up."""
    given = inputs(case)
    for way in ways(case):
        call(way, case, given)
    seconds: dict[str, list[float]] = {way: [] for way in ways(case)}
    for _ in range(rounds):
        for way, values in seconds.items():
            start = time.perf_counter()
            call(way, case, given)
            values.append(time.perf_counter() - start)
    return seconds


def extra_bytes(case: Case) -> dict[str, int]:
    """Peak memory of one call of every way, beyond its inputs and the gradients that it returns."""
    given = inputs(case)
    returned = sum(4 * x.numel() for x in given.floats if x.requires_grad)
    for way in ways(case):
        call(way, case, given)  # compilers and libraries take memory once
    return {way: peak_memory(lambda: call(way, case, given)) - returned for way in ways(case)}  # noqa: B023


def errors(case: Case) -> dict[str, float]:
    """Largest |x - reference| / (1 + |reference|) of each statistic, with float64 as the reference."""
    tokens, logits, *_ = inputs(case)
    worst: dict[str, float] = {}
    actual = token_statistics(logits, tokens, curvature=True)
    for rows in torch.arange(case.tokens).split(16):
        z, k = logits[rows].double(), tokens[rows]
        exact = {
            "log_prob": z.log_softmax(-1).gather(-1, k.unsqueeze(-1)).squeeze(-1),
            "entropy": theory.entropy(z),
            "discriminator": theory.discriminator(z).gather(-1, k.unsqueeze(-1)).squeeze(-1),
            "baseline": theory.expected_discriminator(z),
            "curvature": theory.grpo_second_order_change(z, k, 1.0),
        }
        for name, reference in exact.items():
            error = (getattr(actual, name)[rows] - reference).abs() / (1 + reference.abs())
            worst[name] = max(worst.get(name, 0.0), error.max().item())
    return worst


def gradient_errors(case: Case) -> dict[str, float]:
    """Of the fused loss: largest error of each gradient over the largest size of one, with float64 as the reference."""
    ours, reference = (WAYS["loss"][way] for way in ("linear_grpo_loss", "head, log_softmax and gather, loss"))
    found = []
    for dtype, way in ((torch.float32, ours), (torch.float64, reference)):
        given = inputs(case)
        floats = {name: getattr(given, name).detach().to(dtype).requires_grad_() for name in ("hidden", "weight")}
        way(given._replace(**floats)).backward()
        found.append({name: x.grad.double() for name, x in floats.items()})
    return {name: ((found[0][name] - x).abs().max() / x.abs().max()).item() for name, x in found[1].items()}


def measure(case: Case, *, rounds: int, threads: int) -> list[dict]:
    """One row for each way: milliseconds, time over that of ours in the same round, memory over that of the logits."""
    seconds = in_fresh_process(seconds_of_each, case, rounds, threads=threads)
    memory = in_fresh_process(extra_bytes, case, threads=threads)
    ours = seconds[next(iter(WAYS[case.source]))]
    rows = []
    for way, theirs in seconds.items():
        ratios = [a / b for a, b in zip(theirs, ours)]
        rows.append(
            asdict(case)
            | {
                "way": way,
                "milliseconds": 1e3 * statistics.median(theirs),
                "times_ours": statistics.median(ratios),
                "times_ours_least": min(ratios),
                "times_ours_most": max(ratios),
                "memory": memory[way] / case.logits_bytes,
            }
        )
    return rows


def table(rows: Sequence[dict]) -> str:
    """The rows of one case as text."""
    lines = [case_of(rows[0]).title]
    lines.append(f"{'':36}{'ms':>9}{'x ours':>9}{'(least, most)':>16}{'extra memory / logits':>24}")
    lines += [
        f"{row['way']:36}{row['milliseconds']:9.1f}{row['times_ours']:9.2f}"
        f"{'(' + format(row['times_ours_least'], '.2f') + ', ' + format(row['times_ours_most'], '.2f') + ')':>16}"
        f"{row['memory']:24.3f}"
        for row in rows
    ]
    return "\n".join(lines)


def case_of(row: dict) -> Case:
    """The case that a row belongs to."""
    return Case(**{field.name: row[field.name] for field in fields(Case)})
