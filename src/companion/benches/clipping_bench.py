"""What Clip_B and Clip_V add to a step of TRL's GRPOTrainer, in time and peak memory, beside the step itself.

The pass that gives the statistics, and the choice of what is masked, are all that is added, once a batch of responses.
A step is sampling, scoring, loss and gradient, of all updates on a batch; the optimizer's update is left out. The
policy has random weights, so that responses are as long as they may be, and a vocabulary as large as SmolLM2's.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from companion.benches.peak_memory import peak_memory
from companion.laboratory.policies import character_tokenizer
from companion.processes import in_fresh_process
from companion.puzzles import tasks


@dataclass(frozen=True)
class Sizes:
    """Of the policy and of a batch."""

    responses: int = 8  # to two prompts
    tokens: int = 128  # of a response
    vocabulary: int = 49_152
    width: int = 576
    layers: int = 6


SIDES: dict[str, dict[str, Any]] = {
    "TRL": {},
    "Clip_B": {"entropy_clipping": "clip_b", "mu": 1.0},
    "Clip_V": {"entropy_clipping": "clip_v", "mu": 1.0},
}
ADDED = ("_sampled_statistics", "_kept")  # the methods that make the pass and the choice
# By updates on a batch, at beta = 0: only where the policy has moved does TRL have to score what it sampled.
CASES = {1: "TRL scores no old log-probabilities", 2: "TRL scores old log-probabilities, too"}


def build(side: str, updates: int, sizes: Sizes, folder: str) -> Any:
    """A trainer whose `train()` goes through one batch of responses."""
    import datasets
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    from entropy_dynamics.trl import EntropyClippingGRPOConfig, EntropyClippingGRPOTrainer

    config, trainer = (GRPOConfig, GRPOTrainer)
    if side != "TRL":
        config, trainer = EntropyClippingGRPOConfig, EntropyClippingGRPOTrainer
    torch.manual_seed(0)
    heads = max(1, sizes.width // 64)
    architecture = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=3 * sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tasks.END,
        pad_token_id=tasks.PAD,
    )
    prompts = [problem.prompt for problem in tasks.split(3).training[:2]]
    made = trainer(
        model=LlamaForCausalLM(architecture),
        reward_funcs=lambda completion_ids, **_: [float(number % 2) for number in range(len(completion_ids))],
        args=config(
            output_dir=folder,
            max_steps=updates,
            num_iterations=updates,
            per_device_train_batch_size=sizes.responses,
            gradient_accumulation_steps=1,
            num_generations=sizes.responses // 2,
            max_completion_length=sizes.tokens,
            beta=0.0,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            **SIDES[side],
        ),
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
        processing_class=character_tokenizer(),
    )
    made.remove_callback(PrinterCallback)
    return made


def watch(trainer: Any, method: str, measure: Callable[[Callable[[], None]], float]) -> list[float]:
    """What `measure` says of each call of a method from now on; `delattr` ends it."""
    original, found = getattr(trainer, method), []

    def call(*arguments: Any, **named: Any) -> Any:
        result = []
        found.append(measure(lambda: result.append(original(*arguments, **named))))
        return result[0]

    setattr(trainer, method, call)
    return found


def seconds(computation: Callable[[], None]) -> float:
    start = time.perf_counter()
    computation()
    return time.perf_counter() - start


def times(updates: int, sizes: Sizes, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each side's steps and of what it adds in them; sides take turns, after one that does not count."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = {side: build(side, updates, sizes, folder) for side in SIDES}
        for trainer in trainers.values():
            trainer.train()
        steps = {side: watch(trainer, "training_step", seconds) for side, trainer in trainers.items()}
        added = {side: [watch(trainers[side], name, seconds) for name in ADDED] for side in SIDES if side != "TRL"}
        for _ in range(rounds):
            for trainer in trainers.values():
                trainer.train()
    whole = {side: [sum(some) for some in zip(*[iter(found)] * updates)] for side, found in steps.items()}
    return {
        side: {"step": found} | ({"added": [sum(x) for x in zip(*added[side])]} if side in added else {})
        for side, found in whole.items()
    }


def peaks(side: str, updates: int, sizes: Sizes) -> dict[str, int]:
    """Bytes at the highest point of a side's step, and of the pass that it adds, beyond what was held before each."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(side, updates, sizes, folder)
        trainer.train()  # compilers, libraries and the optimizer take memory once
        found = {}
        for what, method in {"step": "training_step", "added": ADDED[0]}.items():
            if hasattr(trainer, method):
                measured = watch(trainer, method, peak_memory)
                trainer.train()
                delattr(trainer, method)
                found[what] = int(max(measured))
    return found


def measure(*, rounds: int, threads: int, sizes: Sizes = Sizes()) -> list[dict]:
    """One row for each case, side, and step or what is added: milliseconds, their ratio to TRL's step, megabytes."""
    rows = []
    for updates in CASES:
        spent = in_fresh_process(times, updates, sizes, rounds, threads=threads)
        for side, parts in spent.items():
            memory = in_fresh_process(peaks, side, updates, sizes, threads=threads)
            for part, values in parts.items():
                ratios = [a / b for a, b in zip(values, spent["TRL"]["step"], strict=True)]
                rows.append(
                    asdict(sizes)
                    | {"updates": updates, "side": side, "part": part, "milliseconds": 1e3 * statistics.median(values)}
                    | {"ratio": statistics.median(ratios), "ratio_least": min(ratios), "ratio_most": max(ratios)}
                    | {"megabytes": memory[part] / 1e6}
                )
    return rows


def table(rows: Sequence[dict]) -> str:
    """The rows as text."""
    lines = []
    for updates, some in groupby(rows, lambda row: row["updates"]):
        first, *others = some
        size = f"{first['responses']} responses x {first['tokens']} tokens, vocabulary {first['vocabulary']:,}"
        lines.append(f"{updates} {'update' if updates == 1 else 'updates'} a batch; {CASES[updates]}: {size}")
        lines.append(f"{'':36}{'ms':>9}{'x TRL':>9}{'(least, most)':>16}{'peak MB':>10}")
        for row in (first, *others):
            name = {"step": f"step, {row['side']}", "added": "  of it what is added"}[row["part"]]
            span = f"({row['ratio_least']:.2f}, {row['ratio_most']:.2f})"
            lines.append(f"{name:36}{row['milliseconds']:9.1f}{row['ratio']:9.2f}{span:>16}{row['megabytes']:10.1f}")
        lines.append("")
    return "\n".join(lines[:-1])
