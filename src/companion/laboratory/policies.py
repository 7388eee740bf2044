"""The small policy: a Llama of about 0.36 M parameters, and its warm start on noisy demonstrations."""

from __future__ import annotations

import random
from typing import Literal

import torch
import transformers
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor

from companion.laboratory.rollout import response_logits
from companion.puzzles import tasks
from companion.record import Record


class WarmStart(BaseModel):
    """How the starting point of all training runs is made: supervised learning on noisy demonstrations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Literal["countdown", "walks"] = "countdown"
    sizes: tuple[int, ...] = Field(default=(3, 4), min_length=1, description="of the problems, one drawn a step")
    seed: int = Field(default=0, ge=0)
    steps: int = Field(default=900, ge=0)
    prompts: int = Field(default=64, ge=1, description="problems in a step")
    demonstrations: int = Field(default=4, ge=1, description="demonstrations of each problem in a step")
    learning_rate: float = Field(default=3e-3, gt=0)
    noise: float = Field(default=0.35, ge=0, le=1, description="share of demonstrations that are drawn at random")
    width: int = Field(default=96, ge=8)
    layers: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _sizes_are_the_tasks(self) -> WarmStart:
        if not set(self.sizes) <= set(tasks.TASKS[self.task].SIZES):
            raise ValueError(f"sizes are {self.sizes}, expected some of {tasks.TASKS[self.task].SIZES} for {self.task}")
        return self


def build_policy(config: WarmStart) -> transformers.LlamaForCausalLM:
    """A Llama with random weights that depend on the seed alone; float32, in evaluation mode (it has no dropout)."""
    architecture = transformers.LlamaConfig(
        vocab_size=len(tasks.ALPHABET),
        hidden_size=config.width,
        intermediate_size=3 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tasks.END,
        pad_token_id=tasks.PAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return transformers.LlamaForCausalLM(architecture).eval()


def character_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """The alphabet of the tasks as a tokenizer of transformers, for trainers that want one; it pads on the left."""
    characters = Tokenizer(WordLevel({character: i for i, character in enumerate(tasks.ALPHABET)}, unk_token=" "))
    characters.pre_tokenizer = Split(Regex("."), "isolated")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=characters, eos_token="$", pad_token=" ", padding_side="left"
    )


def load_policy(config: WarmStart, weights: dict[str, Tensor]) -> transformers.LlamaForCausalLM:
    """The policy of `config` with the given weights."""
    policy = build_policy(config)
    policy.load_state_dict(weights)
    return policy


def warm_start(config: WarmStart) -> Record:
    """Train the policy to imitate demonstrations, of which a share `noise` is random.

    Adam with a linearly falling learning rate on the mean negative log-likelihood of the response tokens.

    Returns:
        A record whose document holds `series`, with the loss of every step in nats; its tensors are the weights.
    """
    policy = build_policy(config)
    rng = random.Random(config.seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, max(1, config.steps))
    losses = []
    for _ in range(config.steps):
        size = rng.choice(config.sizes)
        solutions = tasks.solutions(size, config.task)
        chosen = rng.choices(tasks.split(size, config.task).training, k=config.prompts)
        demonstrations = [
            problem.random_response(rng) if rng.random() < config.noise else rng.choice(solutions[problem])
            for problem in chosen
            for _ in range(config.demonstrations)
        ]
        prompts = torch.tensor([tasks.encode(problem.prompt) for problem in chosen])
        responses = torch.tensor([tasks.encode(text + "$") for text in demonstrations])
        logits = response_logits(policy, prompts, responses)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), responses.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(f"{loss.item():.7g}"))
    weights = {name: weight.detach().clone() for name, weight in policy.state_dict().items()}
    return Record({"series": {"loss": losses}}, weights)
