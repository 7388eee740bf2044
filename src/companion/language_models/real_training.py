"""GRPO on a language model through TRL: plain, with Clip_B, Clip_V, or a random mask like either; one run.

    python -m companion.language_models.real_training --arm Clip_B --seed 0

trains on arithmetic and writes a record with its command, versions and hardware. The
defaults are those of the records in data/runs, which took two minutes each on an H100 that ten of them shared.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback

from companion.language_models import arithmetic
from companion.language_models.language_model import SMOLLM2, freeze_all_but_last, load_language_model
from companion.provenance import provenance
from companion.record import Record, place, read_record, slug, write_record
from entropy_dynamics.token_statistics import TokenStatistics
from entropy_dynamics.trl import EntropyClippingGRPOConfig, EntropyClippingGRPOTrainer

FORMATS_NAME = "smollm2-formats/seed-0"
NO_TOKEN = 1e6  # a threshold that masks nothing: plain GRPO with the statistics in its logs
ARMS: dict[str, dict[str, Any]] = {
    "GRPO": {"entropy_clipping": "clip_b", "mu": NO_TOKEN},
    "Clip_B": {"entropy_clipping": "clip_b", "mu": 1.0},
    "Clip_V": {"entropy_clipping": "clip_v", "mu": 1.0},
    "random mask": {"entropy_clipping": "clip_b", "mu": 1.0, "clipping_control": True},
    "random mask like Clip_V": {"entropy_clipping": "clip_v", "mu": 1.0, "clipping_control": True},
}


class RealTraining(BaseModel):
    """One run; everything that is not here is TRL's default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arm: str = Field(pattern=f"^({'|'.join(ARMS)})$")
    seed: int = Field(default=0, ge=0)
    steps: int = Field(default=100, ge=1)
    model: str = SMOLLM2
    task: str = Field(default="addition", pattern=f"^({'|'.join(arithmetic.TASKS)})$")
    format: str = Field(default="one example", pattern=f"^({'|'.join(arithmetic.FORMATS)})$")
    problems: int = Field(default=8, ge=1, description="in a batch")
    group_size: int = Field(default=8, ge=2, description="responses to each")
    max_tokens: int = Field(default=6, ge=1, description="of a response")
    learning_rate: float = Field(default=1e-5, gt=0)
    updates: int = Field(default=2, ge=1, description="on each batch")
    samples: int = Field(default=16, ge=1, description="responses to each test problem, before and after")
    test_problems: int = Field(default=64, ge=1)
    examples: int = Field(default=12, ge=0, description="masked tokens that are kept in context, at most")


class _Recorded(EntropyClippingGRPOTrainer):
    """Keeps some masked tokens with their text."""

    examples: list[dict]
    limit: int

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        statistics, advantages, kept, mask = self._seen
        rows, places = (mask & ~kept).nonzero(as_tuple=True)
        for row, position in list(zip(rows.tolist(), places.tolist()))[:2]:
            if len(self.examples) < self.limit:
                text = self.processing_class.decode
                ids = output["completion_ids"][row]
                self.examples.append(
                    {
                        "step": self.state.global_step,
                        "prompt": inputs[row]["prompt"],
                        "before": text(ids[:position]),
                        "token": text(ids[position]),
                        "after": text(ids[position + 1 :][mask[row, position + 1 :]]),
                        "probability": statistics.log_prob[row, position].exp().item(),
                        "entropy": statistics.entropy[row, position].item(),
                        "centred": statistics.centred[row, position].item(),
                        "advantage": advantages[row, position].item(),
                    }
                )
        return output

    def _kept(self, statistics: TokenStatistics, advantages: Tensor, mask: Tensor) -> Tensor:
        kept = super()._kept(statistics, advantages, mask)
        self._seen = statistics, advantages, kept, mask
        return kept


def run(config: RealTraining, *, device: str = "cpu", quiet: bool = False, layers: int | None = None) -> dict[str, Any]:
    """Train one arm.

    Args:
        quiet: print no logs on the way.
        layers: only so many of the last layers learn, which needs a third of the memory; None is the whole model.

    Returns:
        A document of plain JSON values: config; series, one list a logged quantity with one value an update; before and
        after, the evaluations (see `evaluate`); masked, some masked tokens in context; device, by name; seconds.
    """
    start = time.perf_counter()
    torch.manual_seed(config.seed)
    model, tokenizer = load_language_model(config.model)
    if layers is not None:
        freeze_all_but_last(model, layers=layers)
    model.to(device)
    training, test = arithmetic.split(config.task)
    test = test[: config.test_problems]
    ask = arithmetic.FORMATS[config.format]
    before = evaluate(config, model, tokenizer, test)

    by_prompt = {ask(problem.expression): problem for problem in training}

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [float(arithmetic.is_correct(by_prompt[p], text)) for p, text in zip(prompts, completions)]

    rows = [{"prompt": prompt} for prompt in by_prompt]
    with tempfile.TemporaryDirectory() as folder:
        arguments = EntropyClippingGRPOConfig(
            output_dir=folder,
            max_steps=config.steps,
            learning_rate=config.learning_rate,
            lr_scheduler_type="constant",
            per_device_train_batch_size=config.problems * config.group_size,
            num_generations=config.group_size,
            num_iterations=config.updates,
            max_completion_length=config.max_tokens,
            temperature=1.0,
            top_k=0,
            beta=0.0,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=device == "cpu",
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            seed=config.seed,
            **ARMS[config.arm],
        )
        trainer = _Recorded(
            model=model,
            reward_funcs=reward,
            args=arguments,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        if quiet:
            trainer.remove_callback(PrinterCallback)
        trainer.examples, trainer.limit = [], config.examples
        trainer.train()
        logs = [row for row in trainer.state.log_history if "loss" in row]
    names = [name for name in logs[0] if name in ("reward", "entropy", "grad_norm") or "entropy_clipping" in name]
    series = {
        name.removeprefix("entropy_clipping/"): [row.get(name) and float(f"{float(row[name]):.6g}") for row in logs]
        for name in names
    }
    return {
        "config": config.model_dump(mode="json"),
        "series": series,
        "before": before,
        "after": evaluate(config, model, tokenizer, test),
        "masked": [
            {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in e.items()} for e in trainer.examples
        ],
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device,
        "seconds": round(time.perf_counter() - start, 1),
    }


@torch.no_grad()
def evaluate(
    config: RealTraining,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: list[arithmetic.Problem],
    *,
    batch: int = 128,
) -> dict[str, Any]:
    """Sample `config.samples` responses to each problem at temperature 1: samples, and by problem the correct ones."""
    model.eval()
    ask = arithmetic.FORMATS[config.format]
    asked = [problem for problem in problems for _ in range(config.samples)]
    right: list[bool] = []
    with torch.random.fork_rng():
        torch.manual_seed(10**6 + config.seed)
        for start in range(0, len(asked), batch):
            some = asked[start : start + batch]
            ids = tokenizer([ask(problem.expression) for problem in some], return_tensors="pt", padding=True).to(
                model.device
            )
            out = model.generate(
                **ids, max_new_tokens=config.max_tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
            )[:, ids["input_ids"].shape[1] :]
            texts = tokenizer.batch_decode(out, skip_special_tokens=True)
            right += [arithmetic.is_correct(problem, text) for problem, text in zip(some, texts)]
    correct = [sum(right[i : i + config.samples]) for i in range(0, len(right), config.samples)]
    return {"samples": config.samples, "correct": correct}


class Formats(BaseModel):
    """On what the ways of asking are measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = SMOLLM2
    problems: int = Field(default=48, ge=1, description="test problems of each task")
    samples: int = Field(default=4, ge=1, description="responses to each")


def measure_formats(config: Formats, *, device: str = "cpu") -> dict[str, dict[str, Any]]:
    """By task and way of asking, the responses to test problems that are right (see `evaluate`)."""
    language_model, tokenizer = load_language_model(config.model)
    language_model.to(device)
    found: dict[str, dict[str, Any]] = {}
    for task in arithmetic.TASKS:
        test = arithmetic.split(task)[1][: config.problems]
        configs = {
            name: RealTraining(arm="GRPO", task=task, format=name, samples=config.samples)
            for name in arithmetic.FORMATS
        }
        found[task] = {name: evaluate(c, language_model, tokenizer, test) for name, c in configs.items()}
    return found


def name_of(config: RealTraining) -> str:
    """The name of a run's record, such as smollm2-addition/clip-b/seed-0."""
    return place(f"smollm2-{slug(config.task)}", (config.arm, config.seed))


def write(document: dict[str, Any], folder: Path, *, name: str, config: BaseModel, command: str) -> Path:
    """Write a record of a run, or of the measured formats, below a folder; returns its file."""
    path, settings = folder / f"{name}.json", config.model_dump(mode="json")
    if path.is_file() and read(folder, name)["config"] != settings:
        raise FileExistsError(f"{path.resolve()} has a run with other settings; move it away or pass another --output")
    record = Record({k: v for k, v in document.items() if k != "config"}, {}, {"command": command, **provenance()})
    write_record(path, record, name=name, kind=type(config).__name__, config=settings)
    return path


def read(folder: Path, name: str) -> dict[str, Any]:
    """The config and the document of a record below a folder; ValueError if it is damaged or not there."""
    path = folder / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"there is no record {path.resolve()}; notebooks do not make SmolLM2's, make real does")
    try:
        record, head = read_record(path)
        if head["name"] != name:
            raise ValueError(f"it is the record {head['name']}")
        return {"config": head["config"], **record.document}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.resolve()} is damaged: {error}") from error


def read_runs(folder: Path, *, complete: bool = False) -> list[dict[str, Any]]:
    """The documents of the training runs below a folder.

    Raises:
        ValueError: there are none, or one is damaged; with `complete`, a task or an arm lacks a seed that others have.
    """
    files = sorted(folder.glob("smollm2-*/*/seed-*.json"))
    if not files:
        raise ValueError(f"no runs of SmolLM2 in {folder.resolve()}; make them with: make real")
    documents = [read(folder, path.relative_to(folder).with_suffix("").as_posix()) for path in files]
    if complete:
        configs = [RealTraining(**document["config"]) for document in documents]
        found = {(config.task, config.arm, config.seed) for config in configs}
        for task in arithmetic.TASKS:
            seeds = {seed for of, _, seed in found if of == task} or {0}
            if missing := sorted({(task, arm, seed) for arm in ARMS for seed in seeds} - found):
                words = "; ".join(f"{task}, {arm}, seed {seed}" for task, arm, seed in missing)
                raise ValueError(f"{folder.resolve()} lacks runs of SmolLM2 ({words}); make them with: make real")
    return documents


def main() -> None:
    defaults = RealTraining(arm="GRPO")
    parser = argparse.ArgumentParser(
        prog="python -m companion.language_models.real_training",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--formats", action="store_true", help="measure the ways of asking, and train nothing")
    parser.add_argument("--arm", choices=list(ARMS), default="GRPO", help="way of training")
    parser.add_argument("--task", choices=arithmetic.TASKS, default="addition", help="what is trained and tested")
    numbers = {
        "seed": "of problems and responses",
        "steps": "updates of the run",
        "problems": "problems in a batch",
        "group_size": "responses to each",
        "samples": "responses to each test problem",
        "updates": "updates on each batch",
    }
    for name, words in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name), help=words)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of torch")
    parser.add_argument("--output", type=Path, default=Path("build/runs"), help="folder of the records")
    options = vars(parser.parse_args())
    device, output, formats = (options.pop(name) for name in ("device", "output", "formats"))
    if torch.device(device).type == "cuda":  # so that a seed gives the same run again where torch has such kernels
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    if formats:
        command = f"python -m companion.language_models.real_training --formats --device {device}"
        config = Formats()
        document = measure_formats(config, device=device)
        print("wrote", write(document, output, name=FORMATS_NAME, config=config, command=command))
        return
    config = RealTraining(**options)
    words = " ".join(f"--{name.replace('_', '-')} {json.dumps(value)}" for name, value in options.items())
    command = f"python -m companion.language_models.real_training {words} --device {device}"
    document = run(config, device=device)
    print("wrote", write(document, output, name=name_of(config), config=config, command=command))


if __name__ == "__main__":
    main()
