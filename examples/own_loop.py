"""Clip_B in a loop of one's own: micro-batches, gradient accumulation, two processes; torch and this library alone.

    torchrun --nproc-per-node 2 examples/own_loop.py

A GRU learns to repeat three digits in any order. Which tokens are masked is decided for the whole batch, although no
process and no micro-batch ever sees it: moments of S add up.
"""

import argparse
import os

import torch
from torch import Tensor, distributed, nn

from entropy_dynamics import global_clipping
from entropy_dynamics.grpo import group_advantages
from entropy_dynamics.token_statistics import token_statistics

PROMPTS, GROUP, LENGTH, DIGITS = 16, 8, 3, 6  # problems in a batch, responses to each, digits of both, words


class Policy(nn.Module):
    """Next-token logits (N, T, DIGITS) of sequences of digits (N, T)."""

    def __init__(self, width: int = 48):
        super().__init__()
        self.embedding, self.body = nn.Embedding(DIGITS, width), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, DIGITS)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(ids))[0])


def response_statistics(policy: Policy, ids: Tensor):
    """Of the response tokens (N, LENGTH): their states' logits are those one place before them."""
    return token_statistics(policy(ids)[:, LENGTH - 1 : -1], ids[:, LENGTH:])


@torch.no_grad()
def sample(policy: Policy, prompts: Tensor, uniform: Tensor) -> Tensor:
    """Prompts and responses (N, 2 LENGTH), from one uniform number a token, so that they do not depend on the split."""
    ids = prompts
    for place in range(LENGTH):
        cumulated = policy(ids)[:, -1].softmax(-1).cumsum(-1)
        token = torch.searchsorted(cumulated, uniform[:, place : place + 1].contiguous()).clamp(max=DIGITS - 1)
        ids = torch.cat([ids, token], 1)
    return ids


def total(x: Tensor) -> Tensor:
    """Summed over processes."""
    if distributed.is_initialized():
        x = x.clone()
        distributed.all_reduce(x)
    return x


def train(*, steps: int, micro_batch: int, mu: float, rank: int = 0, processes: int = 1) -> tuple[Policy, list[dict]]:
    """The trained policy and, for each step, mean reward, mean entropy (nats) and the share of masked tokens."""
    torch.manual_seed(0)  # the same policy everywhere
    policy, drawn, history = Policy(), torch.Generator().manual_seed(1), []
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(steps):
        prompts = torch.randint(DIGITS, (PROMPTS, LENGTH), generator=drawn).repeat_interleave(GROUP, 0)
        uniform = torch.rand(len(prompts), LENGTH, generator=drawn)
        mine = slice(*(GROUP * (PROMPTS * r // processes) for r in (rank, rank + 1)))  # whole groups
        ids = sample(policy, prompts[mine], uniform[mine])
        rewards = (ids[:, :LENGTH].sort().values == ids[:, LENGTH:].sort().values).all(1).float()
        advantages = group_advantages(rewards.view(-1, GROUP)).view(-1, 1)

        # Once over the micro-batches for the statistics: their moments add up, first here, then over processes.
        parts = torch.arange(len(ids)).split(micro_batch)
        mask = torch.ones(len(ids), LENGTH, dtype=torch.bool)  # the response tokens; here none is padding
        with torch.no_grad():
            old = [response_statistics(policy, ids[part]) for part in parts]
        s = torch.cat([found.discriminator for found in old])
        batch = global_clipping.moments(s, mask, reduce=total)
        keep = global_clipping.keep("clip_b", s, advantages, mask, batch, mu=mu)

        # And once more with gradients, which add up as well.
        optimizer.zero_grad()
        for part, found in zip(parts, old):
            ratio = (response_statistics(policy, ids[part]).log_prob - found.log_prob).exp()
            loss = -(ratio * advantages[part]).where(keep[part], 0.0).sum() / batch.tokens
            loss.backward()
        for weight in policy.parameters():
            weight.grad = total(weight.grad)
        optimizer.step()

        entropy = torch.cat([found.entropy for found in old])
        sums = total(torch.stack([rewards.sum() * LENGTH, entropy.sum(), (~keep).sum()])) / batch.tokens
        history.append(dict(zip(("reward", "entropy", "masked"), sums.tolist())))
    return policy, history


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=150, help="batches")
    parser.add_argument("--micro-batch", type=int, default=16, help="responses at once")
    parser.add_argument("--mu", type=float, default=1.5, help="threshold of Clip_B in deviations")
    options = parser.parse_args()
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(1)
    if processes > 1:
        distributed.init_process_group("gloo")
    _, history = train(**vars(options), rank=rank, processes=processes)
    if rank == 0:
        for number, row in list(enumerate(history))[:: max(1, options.steps // 10)]:
            print(f"step {number:3}: " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()))
    if processes > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
