"""Sampling groups of responses with a key-value cache, and the logits of given responses as a trainer sees them.

Prompts of one batch have one length. Responses of a group go through the policy as one sequence: the prompt once, then
the first tokens of all of them, then all second ones, and so on. Each token attends to the prompt and to its own
response.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import transformers
from torch import Tensor

MOST_RESPONSES = 16  # in a sequence: what attention costs grows with the square of its length


@dataclass(frozen=True)
class Rollout:
    """Responses to P prompts, G each; response g of prompt i is row i G + g of the tensors with P G rows."""

    prompts: Tensor  # (P, L) token ids
    tokens: Tensor  # (P G, T) token ids; arbitrary after the end token
    mask: Tensor  # (P G, T) bool: the response's tokens, its end token included
    log_prob: Tensor  # (P G, T) float32, nats: log-probability of each token when it was sampled, at `temperature`
    logits: Tensor  # (P G, T, V) that the tokens were sampled from, before division by the temperature
    temperature: float

    @property
    def group_size(self) -> int:
        return len(self.tokens) // len(self.prompts)

    def part(self, prompts: slice) -> Rollout:
        """The responses to some of the prompts; the slice has a start and a stop."""
        rows = slice(prompts.start * self.group_size, prompts.stop * self.group_size)
        of_rows = (x[rows] for x in (self.tokens, self.mask, self.log_prob, self.logits))
        return Rollout(self.prompts[prompts], *of_rows, self.temperature)


@torch.no_grad()
def sample(
    policy: transformers.PreTrainedModel,
    prompts: Tensor,
    *,
    group_size: int,
    max_tokens: int,
    end: int,
    temperature: float,
    generator: torch.Generator,
) -> Rollout:
    """Sample `group_size` responses to each prompt from softmax(logits / temperature), the whole vocabulary.

    Args:
        policy: a causal language model of transformers.
        prompts: (P, L).
        max_tokens: a response has at most so many tokens; it may stop without `end`.
        end: the token that ends a response.

    Raises:
        ValueError: a temperature that is not positive, or a group size or length below 1.
    """
    if not temperature > 0 or group_size < 1 or max_tokens < 1:
        raise ValueError(
            f"temperature {temperature}, group_size {group_size}, max_tokens {max_tokens}: expected above 0, 1 and 1"
        )
    starts, size = _shared_prompts(prompts, group_size)
    count, length = starts.shape
    position, attention = _sequence(starts, size, max_tokens - 1, policy.dtype)
    cache = transformers.DynamicCache(config=policy.config)
    logits = policy(starts, past_key_values=cache, logits_to_keep=1).logits[:, -1].repeat_interleave(size, 0)
    tokens, log_probs, all_logits = [], [], []
    running = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    while True:
        log_p = (logits.float() / temperature).log_softmax(-1)
        token = torch.multinomial(log_p.exp(), 1, generator=generator)
        all_logits.append(logits)
        tokens.append(token)
        log_probs.append(log_p.gather(-1, token))
        running = running & (token[:, 0] != end)
        if len(tokens) == max_tokens or not running.any():
            break
        now = slice(length + (len(tokens) - 1) * size, length + len(tokens) * size)
        logits = policy(
            token.view(count, size),
            past_key_values=cache,
            attention_mask=attention[now, : now.stop].expand(count, 1, -1, -1),
            position_ids=position[now].expand(count, -1),
        ).logits.flatten(0, 1)
    response = torch.cat(tokens, 1)
    mask = response_mask(response, end)
    return Rollout(prompts, response, mask, torch.cat(log_probs, 1), torch.stack(all_logits, 1), temperature)


def response_mask(tokens: Tensor, end: int) -> Tensor:
    """(N, T) bool: each row's tokens up to its first `end` token, that one included."""
    ended_before = (tokens == end).cumsum(-1) - (tokens == end).long() > 0
    return ~ended_before


def response_logits(policy: transformers.PreTrainedModel, prompts: Tensor, tokens: Tensor) -> Tensor:
    """Logits (N, T, V) that predict `tokens` (N, T), N a multiple of the number of prompts (P, L); differentiable."""
    group_size, rest = divmod(len(tokens), len(prompts))
    if rest or group_size < 1:
        raise ValueError(f"{len(tokens)} responses do not divide into groups for {len(prompts)} prompts")
    starts, size = _shared_prompts(prompts, group_size)
    count, length = starts.shape
    later = tokens[:, :-1].view(count, size, -1).transpose(1, 2)
    position, attention = _sequence(starts, size, later.shape[1], policy.dtype)
    logits = policy(
        torch.cat([starts, later.flatten(1)], 1),
        attention_mask=attention.expand(count, 1, -1, -1),
        position_ids=position.expand(count, -1),
        use_cache=False,
    ).logits
    first = logits[:, length - 1, None, None].expand(-1, 1, size, -1)
    later = logits[:, length:].unflatten(1, (-1, size))
    return torch.cat([first, later], 1).transpose(1, 2).flatten(0, 1)


def _shared_prompts(prompts: Tensor, group_size: int) -> tuple[Tensor, int]:
    """The prompts (C, L) of the sequences, and how many responses share each: the same number everywhere."""
    if prompts.ndim != 2 or prompts.numel() == 0:
        raise ValueError(f"prompts must be (P, L) with P and L at least 1, got {tuple(prompts.shape)}")
    size = max(n for n in range(1, MOST_RESPONSES + 1) if group_size % n == 0)
    return prompts.repeat_interleave(group_size // size, 0), size


def _sequence(starts: Tensor, size: int, steps: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of a prompt and `size` responses, token by token: positions (S,), and what is added to attention (S, S)."""
    length = starts.shape[1]
    with torch.device(starts.device):
        position = torch.cat([torch.arange(length), length + torch.arange(steps).repeat_interleave(size)])
        response = torch.cat([torch.full((length,), -1), torch.arange(size).repeat(steps)])
        sees = (position <= position.unsqueeze(-1)) & ((response == -1) | (response == response.unsqueeze(-1)))
        return position, torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, -torch.inf)
