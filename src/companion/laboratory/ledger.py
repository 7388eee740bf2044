"""The entropy ledger: what each level of theory predicts for one training step, beside what happened.

On the states of one batch, all response tokens counting alike, in nats:
- `logits`: Theorem 3.3 token by token, -mean alpha D with alpha = eta w r A, as if each state had its own logits; it
  is meant up to one factor, for the token mean over all tokens, and knows nothing of optimizer or gradient clipping;
- `parameters`: the gradient of the mean entropy times the step that the parameters really took (first order, exact);
- `measured`: mean entropy after the step minus before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor

from companion.laboratory.rollout import Rollout, response_logits
from entropy_dynamics import theory


@dataclass
class Entry:
    """Two of the three changes of mean entropy over one step; filled when the step is done."""

    parameters: float = float("nan")
    measured: float = float("nan")


def mean_entropy(policy: transformers.PreTrainedModel, rollout: Rollout) -> Tensor:
    """The mean entropy over all response tokens' states at the sampling temperature; a differentiable scalar."""
    logits = response_logits(policy, rollout.prompts, rollout.tokens) / rollout.temperature
    return theory.entropy(logits)[rollout.mask].mean()


@torch.no_grad()
def state_entropies(policy: transformers.PreTrainedModel, rollout: Rollout) -> Tensor:
    """(N, T): the entropy of every response token's state at the sampling temperature, in nats."""
    return theory.entropy(response_logits(policy, rollout.prompts, rollout.tokens) / rollout.temperature)


@contextmanager
def entropy_ledger(policy: transformers.PreTrainedModel, rollout: Rollout) -> Iterator[Entry]:
    """Predict and measure the entropy change of whatever happens to the policy's parameters inside the context."""
    parameters = list(policy.parameters())
    before = mean_entropy(policy, rollout)
    gradients = torch.autograd.grad(before, parameters)
    old = [parameter.detach().clone() for parameter in parameters]
    entry = Entry()
    yield entry
    with torch.no_grad():
        steps = zip(gradients, parameters, old)
        entry.parameters = sum((g.double() * (new - was).double()).sum().item() for g, new, was in steps)
        entry.measured = (mean_entropy(policy, rollout) - before).item()
