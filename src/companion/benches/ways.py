"""What is compared: each way to get token statistics, or the GRPO loss with its gradient, as a function of inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import util
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from entropy_dynamics import grpo
from entropy_dynamics.linear_loss import linear_grpo_loss
from entropy_dynamics.linear_statistics import linear_token_statistics
from entropy_dynamics.methods import Terms, TokenBatch, as_terms
from entropy_dynamics.token_statistics import TokenStatistics, token_statistics

RESPONSES = 8  # of one group; only Liger's loss looks at where they end


@dataclass(frozen=True)
class Case:
    """What is measured: statistics or the loss, of so many tokens, from logits or from hidden states and a head."""

    source: Literal["logits", "hidden states", "loss"]
    vocabulary: int
    tokens: int = 512
    width: int = 576  # of the hidden states, as in SmolLM2-135M
    backward: bool = False

    @property
    def logits_bytes(self) -> int:
        return 4 * self.tokens * self.vocabulary

    @property
    def title(self) -> str:
        passes = "forward and backward" if self.backward else "forward"
        what = {"logits": "statistics from logits", "hidden states": "statistics from hidden states", "loss": "loss"}
        width = "" if self.source == "logits" else f", width {self.width}"
        return f"{what[self.source]}: {self.tokens} tokens{width}, vocabulary {self.vocabulary:,}, {passes}"


class Inputs(NamedTuple):
    """Random inputs of a case; of `logits`, and `hidden` and `weight`, the ones that it needs."""

    tokens: Tensor  # (T,)
    logits: Tensor | None = None  # (T, V)
    hidden: Tensor | None = None  # (T, W)
    weight: Tensor | None = None  # (V, W)
    batch: TokenBatch | None = None  # (8, T / 8), of the policy that the hidden states and the head are
    terms: Terms | None = None

    @property
    def floats(self) -> list[Tensor]:
        return [x for x in (self.logits, self.hidden, self.weight) if x is not None]


def inputs(case: Case) -> Inputs:
    """Of a case; the loss is plain GRPO's at the policy that sampled."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(case.vocabulary, (case.tokens,), generator=generator)

    def floats(*shape: int, scale: float) -> Tensor:
        return torch.randn(shape, generator=generator).mul_(scale).requires_grad_(case.backward)

    if case.source == "logits":
        return Inputs(tokens, logits=floats(case.tokens, case.vocabulary, scale=3))
    scale = (3 / case.width**0.5) ** 0.5  # logits of the same deviation as above
    hidden, weight = (floats(n, case.width, scale=scale) for n in (case.tokens, case.vocabulary))
    if case.source == "hidden states":
        return Inputs(tokens, hidden=hidden, weight=weight)
    with torch.no_grad():
        old = linear_token_statistics(hidden, weight, tokens)
    rows = (RESPONSES, -1)
    old = TokenStatistics(*(x if x is None else x.view(rows) for x in old))
    mask = torch.ones_like(old.log_prob, dtype=torch.bool)
    rewards = (torch.arange(RESPONSES) % 2).float().unsqueeze(-1).expand(mask.shape)
    advantages = grpo.group_advantages(rewards.T).T.contiguous()
    batch = TokenBatch(old, old, advantages, rewards, mask, torch.zeros(RESPONSES, dtype=torch.long))
    return Inputs(tokens, None, hidden, weight, batch, as_terms(batch, torch.ones_like(advantages)))


def released(given: Inputs) -> Tensor:
    """log_softmax, probabilities, entropy, and E[S] = H sum p^2 + sum p^2 log p, each from whole tensors."""
    log_p = given.logits.log_softmax(-1)
    with torch.no_grad():
        p = log_p.exp()
        entropy = -(p * log_p).sum(-1)
        _ = entropy * (p * p).sum(-1) + (p * p * log_p).sum(-1)
    return log_p.gather(-1, given.tokens.unsqueeze(-1)).squeeze(-1)


def of_trl(given: Inputs) -> Tensor:
    """TRL's log-probability and entropy; no E[S]."""
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    with torch.no_grad():
        entropy_from_logits(given.logits)
    return selective_log_softmax(given.logits, given.tokens)


def of_trl_head(given: Inputs) -> Tensor:
    """TRL's fused head: log-probability and entropy; no E[S]."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    arguments = (given.hidden, given.weight, None, given.tokens, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE)
    return ChunkedLogProbFunction.apply(*arguments, None, 1.0, ("entropy",))[0]


def gather(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def of_head(given: Inputs) -> Tensor:
    return gather(given.hidden @ given.weight.T, given.tokens)


def of_chunks(given: Inputs) -> Tensor:
    return linear_token_statistics(given.hidden, given.weight, given.tokens).log_prob


def loss_of(log_prob: Callable[[Inputs], Tensor]) -> Callable[[Inputs], Tensor]:
    """The way to the loss by a way to log-probabilities."""

    def loss(given: Inputs) -> Tensor:
        found = log_prob(given).view(RESPONSES, -1)
        return grpo.loss(found, given.batch.statistics.entropy, given.batch, given.terms)

    return loss


def fused(given: Inputs) -> Tensor:
    hidden, tokens = (x.unflatten(0, (RESPONSES, -1)) for x in (given.hidden, given.tokens))
    return linear_grpo_loss(hidden, given.weight, tokens, given.batch, given.terms)[0]


@cache
def _liger():
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    return LigerFusedLinearGRPOLoss(beta=0.0, use_ref_model=False, loss_type="dapo")


def of_liger(given: Inputs) -> Tensor:
    """Liger's fused loss, a response at a time; log-probabilities only."""
    hidden, tokens = (x.unflatten(0, (RESPONSES, -1)) for x in (given.hidden, given.tokens))
    batch = given.batch
    columns = (tokens, batch.mask.float(), batch.advantages[:, 0])
    return _liger()(hidden, given.weight, *columns, old_per_token_logps=batch.old.log_prob)[0]


# Ours first. Each returns log-probabilities, or the loss, whatever else it computes.
WAYS: dict[str, dict[str, Callable[[Inputs], Tensor]]] = {
    "logits": {
        "one pass": lambda given: token_statistics(given.logits, given.tokens).log_prob,
        "one pass, eager": lambda given: token_statistics(given.logits, given.tokens, backend="eager").log_prob,
        "released code": released,
        "TRL": of_trl,
        "log_softmax and gather": lambda given: gather(given.logits, given.tokens),
        "plain sum": lambda given: given.logits.sum(-1),
    },
    "hidden states": {
        "one pass, chunks of the head": of_chunks,
        "head, one pass": lambda given: token_statistics(given.hidden @ given.weight.T, given.tokens).log_prob,
        "head, log_softmax and gather": of_head,
        "TRL's fused head": of_trl_head,
    },
    "loss": {
        "linear_grpo_loss": fused,
        "linear_token_statistics, loss": loss_of(of_chunks),
        "head, log_softmax and gather, loss": loss_of(of_head),
        "TRL's fused head, loss": loss_of(of_trl_head),
        "Liger's fused loss": of_liger,
    },
}
PACKAGES = {"TRL": "trl", "Liger": "liger_kernel"}  # of the ways whose names begin so


def ways(case: Case) -> list[str]:
    """Those that a case is measured with: a plain sum has no gradient worth a comparison, and rivals may be missing."""
    missing = tuple(name for name, package in PACKAGES.items() if util.find_spec(package) is None)
    there = [way for way in WAYS[case.source] if not way.startswith(missing)]
    return [way for way in there if not (case.backward and way == "plain sum")]


def call(way: str, case: Case, given: Inputs) -> None:
    """One forward, and the backward pass if the case has one."""
    with torch.set_grad_enabled(case.backward):
        result = WAYS[case.source][way](given)
    if case.backward:
        result.backward(torch.linspace(-1, 1, case.tokens) if result.ndim else None)
        for x in given.floats:
            x.grad = None
