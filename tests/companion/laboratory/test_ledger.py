"""The ledger's prediction is exact to first order, and its measurement is the difference of entropies."""

import pytest
import torch

from companion.laboratory.ledger import entropy_ledger, mean_entropy
from companion.laboratory.policies import WarmStart, build_policy
from companion.laboratory.rollout import response_logits, sample
from companion.mathematics.verification import log_log_slope
from companion.puzzles import tasks
from entropy_dynamics import theory

PROMPTS = torch.tensor([tasks.encode(problem.prompt) for problem in tasks.split(3).training[:4]])


@pytest.fixture
def laboratory():
    policy = build_policy(WarmStart(width=16, layers=1)).double()
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(5)
    generator = torch.Generator().manual_seed(0)
    settings = {"group_size": 2, "max_tokens": 4, "end": tasks.END, "temperature": 0.9}
    return policy, sample(policy, PROMPTS, generator=generator, **settings)


def test_mean_entropy_is_over_response_tokens_at_the_sampling_temperature(laboratory):
    policy, rollout = laboratory
    logits = response_logits(policy, PROMPTS, rollout.tokens)[rollout.mask]
    assert mean_entropy(policy, rollout).item() == pytest.approx(theory.entropy(logits / 0.9).mean().item())


def test_first_order_is_exact_for_small_steps(laboratory):
    policy, rollout = laboratory
    start = [p.detach().clone() for p in policy.parameters()]
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in start]
    sizes, errors = [1e-5, 1e-4, 1e-3], []
    for size in sizes:
        with entropy_ledger(policy, rollout) as entry, torch.no_grad():
            for parameter, change in zip(policy.parameters(), direction):
                parameter.add_(size * change)
        errors.append(abs(entry.parameters - entry.measured))
        assert errors[-1] < 0.2 * abs(entry.measured)
        with torch.no_grad():
            for parameter, was in zip(policy.parameters(), start):
                parameter.copy_(was)
    assert log_log_slope(sizes, errors) == pytest.approx(2, abs=0.2)


def test_nothing_happened_nothing_changed(laboratory):
    policy, rollout = laboratory
    with entropy_ledger(policy, rollout) as entry:
        pass
    assert (entry.parameters, entry.measured) == (0, 0)
