"""The paper's setting as one annotated config, and the entry point that trains it, at full size or as a dry run.

    accelerate launch --config_file build/paper_scale/accelerate.yaml -m companion.language_models.paper_scale
    torchrun --standalone --nproc-per-node 2 -m companion.language_models.paper_scale --dry-run small

The first needs eight GPUs, vLLM, DeepSpeed and the hub; the second runs the same code on what is here, offline. Both
train through accelerate, whose own launcher would need MPI for several processes on a CPU.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from companion.files import write_atomically
from companion.language_models import arithmetic, math_data
from companion.processes import end_with_launcher

# Whoever only reads the config shall not hold transformers, datasets and TRL in memory: functions import what trains.
if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

    from entropy_dynamics.trl import EntropyClippingGRPOTrainer

Source = Literal["paper, reported", "released file", "framework default", "ours"]


def _value(default: Any, source: Source, meaning: str, **limits: Any) -> Any:
    return Field(default=default, description=meaning, json_schema_extra={"source": source}, **limits)


class PaperScale(BaseModel):
    """Every value with where it comes from; `sources` lists them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = _value("Qwen/Qwen2.5-7B-Instruct", "paper, reported", "the policy")
    data: str = _value("open-r1/DAPO-Math-17k-Processed", "ours", "DAPO-Math-17k, without its duplicates")
    evaluation: tuple[str, ...] = _value(
        ("HuggingFaceH4/aime_2024", "yentinglin/aime_2025"), "ours", "AIME24 and AIME25 on the hub"
    )
    pass_rates: str = _value(
        "data/pass_rates.json",
        "ours",
        "pass rate of each prompt under the starting policy, as JSON; to be measured first",
    )
    held_out: int = _value(500, "paper, reported", "problems of DAPO500")
    method: str = _value("clip_b", "paper, reported", "clip_b, clip_v or none")
    mu: float = _value(2.5, "released file", "2.5 for clip_b with 16 responses, 8.5 for clip_v with 8", gt=0)
    reading: str = _value("released", "released file", "released or two-sided")
    prompts: int = _value(64, "released file", "problems in a batch")
    group_size: int = _value(16, "released file", "responses to each: 16 for clip_b, 8 for clip_v")
    temperature: float = _value(1.0, "released file", "in training")
    evaluation_temperature: float = _value(0.7, "released file", "in evaluation")
    evaluation_samples: int = _value(32, "released file", "responses to each test problem")
    prompt_tokens: int = _value(1024, "released file", "at most")
    response_tokens: int = _value(7168, "released file", "at most")
    kl: float = _value(0.0, "released file", "coefficient of the KL term")
    epochs: int = _value(20, "released file", "over the training problems")
    evaluate_every: int = _value(20, "released file", "steps")
    learning_rate: float = _value(1e-6, "framework default", "not set in the released file")
    clip_low: float = _value(0.2, "framework default", "PPO's clip, lower side")
    clip_high: float = _value(0.2, "framework default", "PPO's clip, upper side")
    gpus: int = _value(8, "released file", "H100 or like them", ge=1)
    sequences: int = _value(2, "ours", "trained at a time on one GPU", ge=1)
    vllm_memory: float = _value(0.35, "ours", "share of a GPU's memory for generation", gt=0, lt=1)
    seed: int = _value(0, "ours", "of everything", ge=0)


def sources() -> list[dict[str, Any]]:
    """One row a value: name, value, source, meaning."""
    return [
        {
            "name": name,
            "value": field.default,
            "source": field.json_schema_extra["source"],
            "meaning": field.description,
        }
        for name, field in PaperScale.model_fields.items()
    ]


def trl_settings(config: PaperScale) -> dict[str, Any]:
    """The config as arguments of `EntropyClippingGRPOConfig`."""
    accumulation, rest = divmod(config.prompts * config.group_size, config.gpus * config.sequences)
    if rest:
        raise ValueError(
            f"{config.prompts} x {config.group_size} responses do not divide among {config.gpus} GPUs with "
            f"{config.sequences} sequences at a time"
        )
    return {
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.sequences,
        "gradient_accumulation_steps": accumulation,
        "num_generations": config.group_size,
        "max_completion_length": config.response_tokens,
        "temperature": config.temperature,
        "beta": config.kl,
        "epsilon": config.clip_low,
        "epsilon_high": config.clip_high,
        "loss_type": "dapo",
        "scale_rewards": "group",
        "bf16": True,
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": config.vllm_memory,
        "eval_steps": config.evaluate_every,
        "seed": config.seed,
        "entropy_clipping": config.method,
        "mu": config.mu if config.method != "none" else None,
        "clipping_reading": config.reading,
    }


def accelerate_settings(config: PaperScale) -> dict[str, Any]:
    """What `accelerate launch --config_file` reads: DeepSpeed ZeRO-3 in bfloat16 on one machine."""
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "DEEPSPEED",
        "deepspeed_config": {"zero_stage": 3, "zero3_init_flag": True, "zero3_save_16bit_model": True},
        "mixed_precision": "bf16",
        "num_machines": 1,
        "num_processes": config.gpus,
    }


# A dry run: the same code with these values instead, no vLLM, on a CPU.
DRY = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_generations": 4,
    "max_completion_length": 6,
    "bf16": False,
    "use_vllm": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "learning_rate": 1e-5,
    "mu": 1.0,
}
Parts = tuple[Any, Any, "Dataset", Callable[..., list[float]]]  # model, tokenizer, problems, reward


def small_parts() -> Parts:
    """The small policy, untrained, on countdown."""
    from datasets import Dataset

    from companion.laboratory.policies import WarmStart, build_policy, character_tokenizer
    from companion.puzzles import tasks

    problems = tasks.split(3).training[:32]
    by_prompt = {problem.prompt: problem for problem in problems}

    def reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        right = [float(tasks.is_correct(by_prompt[p], ids)) for p, ids in zip(prompts, completion_ids)]
        return [
            r + 0.1 * len(set(ids)) / len(ids) for r, ids in zip(right, completion_ids)
        ]  # an untrained policy is never right

    rows = [{"prompt": problem.prompt} for problem in problems]
    return build_policy(WarmStart()), character_tokenizer(), Dataset.from_list(rows), reward


def smollm2_parts() -> Parts:
    """SmolLM2-135M on a handful of two-digit additions, scored by math-verify; its last layer alone learns."""
    from datasets import Dataset

    from companion.language_models.language_model import SMOLLM2, freeze_all_but_last, load_language_model

    model, tokenizer = load_language_model(SMOLLM2)
    freeze_all_but_last(model, layers=1)  # gradients and Adam's state of the whole model are three more of it
    ask = arithmetic.FORMATS["one example"]
    some = arithmetic.split("addition")[0][:16]
    rows = [{"prompt": ask(problem.expression), "answer": str(problem.answer)} for problem in some]

    def reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        firsts = [text.strip().split("\n")[0] for text in completions]
        return math_data.score(firsts, answer, longest=200).rewards

    return model, tokenizer, Dataset.from_list(rows), reward


def paper_parts(config: PaperScale) -> Parts:
    """The real thing, from the hub.

    Raises:
        OSError: the model or the data are neither cached nor to be had.
    """
    import datasets
    import huggingface_hub
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        if not isinstance(huggingface_hub.try_to_load_from_cache(config.model, "config.json"), str):
            huggingface_hub.model_info(config.model, timeout=10)  # fails at once where loading would try for a minute
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        rows = datasets.load_dataset(config.data, "en", split="train")
        model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.bfloat16)
    except Exception as error:  # the hub's clients raise many kinds
        raise OSError(
            f"{config.model} and {config.data} are needed from the hub and cannot be had ({type(error).__name__}); "
            "run where the hub is reached, or try --dry-run small"
        ) from error
    if not Path(config.pass_rates).is_file():
        raise OSError(
            f"no pass rates in {config.pass_rates}: sample {config.group_size} responses of {config.model} to each "
            "prompt, score them with math_data.score, and write {prompt: share of right ones} there"
        )
    rates = json.loads(Path(config.pass_rates).read_text(encoding="utf-8"))
    rows = [{"prompt": r["prompt"], "answer": r["solution"], "pass_rate": rates.get(r["prompt"])} for r in rows]
    formed = math_data.well_formed(rows, longest_prompt=4 * config.prompt_tokens)
    middling = math_data.of_middling_difficulty(formed.rows)
    print(f"dropped: {dict(formed.dropped + middling.dropped)}; {len(middling.rows)} problems left")
    training, _ = math_data.split(middling.rows, held_out=config.held_out, seed=config.seed)

    def reward(completions: list, answer: list[str], **_: Any) -> list[float]:
        return math_data.score(
            [c[-1]["content"] for c in completions], answer, longest=4 * config.response_tokens
        ).rewards

    chats = [{"prompt": [{"role": "user", "content": row["prompt"]}], "answer": row["answer"]} for row in training]
    return model, tokenizer, datasets.Dataset.from_list(chats), reward


def train(config: PaperScale, parts: Parts, folder: Path, **changes: Any) -> "EntropyClippingGRPOTrainer":
    """Train on the parts with the config's settings, some of them changed."""
    from entropy_dynamics.trl import EntropyClippingGRPOConfig, EntropyClippingGRPOTrainer

    model, tokenizer, problems, reward = parts
    arguments = EntropyClippingGRPOConfig(
        output_dir=str(folder), report_to="none", logging_steps=1, **trl_settings(config) | changes
    )
    trainer = EntropyClippingGRPOTrainer(
        model=model, reward_funcs=reward, args=arguments, train_dataset=problems, processing_class=tokenizer
    )
    trainer.train()
    leave(trainer.accelerator)
    return trainer


def leave(accelerator: "Accelerator") -> None:
    """Close the process group after training.

    A thread of gloo needs Python's lock to drop the tensors of its last collective; a model that is freed before that
    waits for the thread with the lock held, for ever, and a process that exits aborts (pytorch/pytorch#190489). Half a
    second without the lock lets the thread finish.
    """
    time.sleep(0.5)
    accelerator.end_training()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m companion.language_models.paper_scale",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--dry-run", choices=("small", "smollm2"), help="a few steps of a small model, offline")
    parser.add_argument("--write-accelerate", type=Path, metavar="FILE", help="write accelerate's config and stop")
    parser.add_argument("--output", type=Path, default=Path("build/paper_scale"), help="folder of the checkpoints")
    options = parser.parse_args()
    config = PaperScale()
    if options.write_accelerate:
        options.write_accelerate.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.write_accelerate, yaml.safe_dump(accelerate_settings(config)))
        return 0
    if options.dry_run:
        end_with_launcher()
        parts = {"small": small_parts, "smollm2": smollm2_parts}[options.dry_run]()
        with tempfile.TemporaryDirectory() as folder:
            trainer = train(config, parts, Path(folder), save_strategy="no", disable_tqdm=True, **DRY)
        log = [row for row in trainer.state.log_history if "loss" in row][-1]
        if trainer.accelerator.is_main_process:
            print(
                f"dry run {options.dry_run}: {trainer.state.global_step} steps on {trainer.accelerator.num_processes} "
                f"processes, reward {float(log['reward']):.3f}, entropy {float(log['entropy']):.3f}, masked "
                f"{float(log['entropy_clipping/masked_negative']):.1%} of penalised tokens"
            )
        return 0
    try:
        parts = paper_parts(config)
    except OSError as error:
        print(error, file=sys.stderr)
        return 2
    train(config, parts, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
