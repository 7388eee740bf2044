"""What token statistics cost in time and memory, ours beside the ways in use, from one run.

    python -m companion.benches.statistics_bench

Times of one case come from one process in which the ways take turns, peak memory from another one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from companion.benches.peak_memory import peak_memory, require_linux
from companion.files import write_atomically
from companion.provenance import provenance
from entropy_dynamics import theory
from entropy_dynamics.linear_statistics import linear_token_statistics
from entropy_dynamics.token_statistics import token_statistics

WIDTH = 576  # of the hidden states, as in SmolLM2-135M


@dataclass(frozen=True)
class Case:
    """What is measured: statistics from `tokens` rows of logits, or from hidden states and the head of a model."""

    source: str  # "logits" or "hidden states"
    vocabulary: int
    tokens: int = 512
    backward: bool = False

    @property
    def logits_bytes(self) -> int:
        return 4 * self.tokens * self.vocabulary


CASES = [
    *(Case("logits", v) for v in (1_024, 8_192, 49_152, 151_936)),
    *(Case("logits", v, backward=True) for v in (49_152, 151_936)),
    *(Case("hidden states", 49_152, tokens, backward=True) for tokens in (384, 1024, 2048)),
    Case("hidden states", 151_936, 1024, backward=True),
]


def released(logits: Tensor, tokens: Tensor) -> Tensor:
    """log_softmax, probabilities, entropy, and E[S] = H sum p^2 + sum p^2 log p, each from whole tensors."""
    log_p = logits.log_softmax(-1)
    with torch.no_grad():
        p = log_p.exp()
        entropy = -(p * log_p).sum(-1)
        _ = entropy * (p * p).sum(-1) + (p * p * log_p).sum(-1)
    return log_p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def of_trl(logits: Tensor, tokens: Tensor) -> Tensor:
    """TRL's log-probability and entropy; no E[S]."""
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    with torch.no_grad():
        entropy_from_logits(logits)
    return selective_log_softmax(logits, tokens)


def of_trl_linear(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    """TRL's fused head: log-probability and entropy; no E[S]."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    arguments = (hidden, weight, None, tokens, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("entropy",))
    return ChunkedLogProbFunction.apply(*arguments)[0]


def gather(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


# Ours first. Each returns log-probabilities, whatever else it computes.
WAYS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "logits": {
        "one pass": lambda logits, tokens: token_statistics(logits, tokens).log_prob,
        "one pass, eager": lambda logits, tokens: token_statistics(logits, tokens, backend="eager").log_prob,
        "released code": released,
        "TRL": of_trl,
        "log_softmax and gather": gather,
        "plain sum": lambda logits, tokens: logits.sum(-1),
    },
    "hidden states": {
        "one pass, chunks of the head": lambda hidden, weight, tokens: (
            linear_token_statistics(hidden, weight, tokens).log_prob
        ),
        "head, one pass": lambda hidden, weight, tokens: token_statistics(hidden @ weight.T, tokens).log_prob,
        "head, log_softmax and gather": lambda hidden, weight, tokens: gather(hidden @ weight.T, tokens),
        "TRL's fused head": of_trl_linear,
    },
}


def ways(case: Case) -> list[str]:
    """The ways that a case is measured with: a plain sum has no gradient worth a comparison."""
    return [way for way in WAYS[case.source] if not (case.backward and way == "plain sum")]


def inputs(case: Case) -> list[Tensor]:
    """Random logits, or hidden states and head, and random tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(case.vocabulary, (case.tokens,), generator=generator)
    if case.source == "logits":
        floats = [torch.randn(case.tokens, case.vocabulary, generator=generator).mul_(3)]
    else:
        shapes = (case.tokens, WIDTH), (case.vocabulary, WIDTH)
        floats = [torch.randn(shape, generator=generator).mul_(0.35) for shape in shapes]
    return [*(x.requires_grad_(case.backward) for x in floats), tokens]


def call(way: str, case: Case, arguments: list[Tensor]) -> None:
    """One forward, and the backward pass if the case has one."""
    with torch.set_grad_enabled(case.backward):
        log_prob = WAYS[case.source][way](*arguments)
    if case.backward:
        log_prob.backward(torch.linspace(-1, 1, case.tokens))
        for x in arguments[:-1]:
            x.grad = None


def seconds_of_each(case: Case, rounds: int) -> dict[str, list[float]]:
    """Seconds of every way in every round; before them each way is warmed up."""
    arguments = inputs(case)
    for way in ways(case):
        call(way, case, arguments)
    seconds: dict[str, list[float]] = {way: [] for way in ways(case)}
    for _ in range(rounds):
        for way, values in seconds.items():
            start = time.perf_counter()
            call(way, case, arguments)
            values.append(time.perf_counter() - start)
    return seconds


def extra_bytes(case: Case) -> dict[str, int]:
    """Peak memory of one call of every way, beyond its inputs and the gradients that it returns."""
    arguments = inputs(case)
    returned = sum(4 * x.numel() for x in arguments if x.requires_grad)
    for way in ways(case):
        call(way, case, arguments)  # compilers and libraries take memory once
    return {way: peak_memory(lambda: call(way, case, arguments)) - returned for way in ways(case)}  # noqa: B023


def errors(case: Case) -> dict[str, float]:
    """Largest |x - reference| / (1 + |reference|) of each statistic, with float64 as the reference."""
    logits, tokens = inputs(case)
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


def run_child(task: str, case: Case, *arguments: str, threads: int) -> object:
    """What `task` gives in a fresh process."""
    command = [sys.executable, "-m", "companion.benches.statistics_bench", "--task", task, json.dumps(asdict(case))]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"{task} of {case} {arguments} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(case: Case, *, rounds: int, threads: int) -> list[dict]:
    """One row for each way: milliseconds, time relative to ours in the same round, memory relative to the logits."""
    seconds = run_child("time", case, str(rounds), threads=threads)
    memory = run_child("memory", case, threads=threads)
    ours = seconds[next(iter(WAYS[case.source]))]
    return [
        asdict(case)
        | {
            "way": way,
            "milliseconds": 1e3 * statistics.median(seconds[way]),
            "times_ours": statistics.median(theirs / mine for theirs, mine in zip(seconds[way], ours)),
            "memory": memory[way] / case.logits_bytes,
        }
        for way in seconds
    ]


def table(rows: Sequence[dict]) -> str:
    """The rows of one case as text."""
    case = Case(**{name: rows[0][name] for name in Case.__dataclass_fields__})
    passes = "forward and backward" if case.backward else "forward"
    lines = [f"\n{case.tokens} tokens, vocabulary {case.vocabulary:,}, from {case.source}, {passes}"]
    lines.append(f"{'':32}{'ms':>9}{'x ours':>9}{'extra memory / logits':>24}")
    lines += [f"{row['way']:32}{row['milliseconds']:9.1f}{row['times_ours']:9.2f}{row['memory']:24.3f}" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="turns of each way")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--output", type=Path, help="write the rows there as JSON, with their origin")
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        task, case, *arguments = options.task
        case = Case(**json.loads(case))
        tasks = {
            "time": lambda: seconds_of_each(case, int(arguments[0])),
            "memory": lambda: extra_bytes(case),
            "errors": lambda: errors(case),
        }
        print(json.dumps(tasks[task]()))
        return
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    try:
        require_linux()
    except OSError as error:
        parser.error(str(error))
    made_by = provenance() | {"threads": options.threads}
    print(f"{made_by['machine']['cpu']}, {options.threads} threads, torch {made_by['versions']['torch']}, float32")
    rows = []
    for case in CASES:
        rows += (new := measure(case, rounds=options.rounds, threads=options.threads))
        print(table(new), flush=True)
    worst = run_child("errors", Case("logits", 151_936), threads=options.threads)
    print("\nlargest |x - reference| / (1 + |reference|) at 151,936 words, reference in float64:")
    print(", ".join(f"{name} {error:.1e}" for name, error in worst.items()))
    if options.output:
        command = f"python -m companion.benches.statistics_bench --rounds {options.rounds}"
        document = {"command": command, **made_by, "rows": rows, "errors": worst}
        write_atomically(options.output, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
