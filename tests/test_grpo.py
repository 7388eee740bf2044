"""Advantages, loss and one whole update, against numbers by hand and a direct gradient."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from entropy_dynamics import grpo, tasks
from entropy_dynamics.grpo import StepConfig, group_advantages, surrogate_loss
from entropy_dynamics.methods import RULES, Rule
from entropy_dynamics.policies import WarmStart, build_policy
from entropy_dynamics.rollout import response_logits, sample

PROMPTS = torch.tensor([tasks.encode(problem.prompt) for problem in tasks.split(3).training[:4]])
GENERATOR = torch.Generator()


def test_group_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    sample_std, population_std = 0.5, 3**0.5 / 4
    for correction, std in ((1, sample_std), (0, population_std)):
        advantages = group_advantages(rewards, correction=correction, eps=1e-6)
        assert advantages[0].tolist() == pytest.approx([0.75 / (std + 1e-6), *[-0.25 / (std + 1e-6)] * 3])
        assert not advantages[1:].any()  # no variance: nothing to learn
    assert not group_advantages(torch.full((2, 8), 0.7)).any()  # although their float32 mean is not 0.7
    assert_close(group_advantages(torch.tensor([[1], [0]])), torch.tensor([[1 / (1 + 1e-6)], [0.0]]))


@pytest.mark.parametrize(
    ("rewards", "arguments", "message"),
    [
        (torch.tensor(1.0), {}, "must be"),
        (torch.zeros(2, 0), {}, "must be"),
        (torch.tensor([1.0, torch.nan]), {}, "finite"),
        (torch.zeros(2, 2), {"correction": 2}, "correction is 2"),
    ],
)
def test_bad_rewards_are_refused(rewards, arguments, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(rewards, **arguments)


def test_loss_by_hand():
    # ratios 2, 1 / 2, 1 (one response) and 1 (another, with two tokens masked)
    log_prob = torch.tensor([[2.0, 0.5, 1.0], [1.0, 7.0, 7.0]]).log()
    old = torch.zeros(2, 3)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    advantages = torch.tensor([[1.0], [-2.0]])

    def loss(**settings):
        return surrogate_loss(log_prob, old, advantages, mask, clip_low=0.2, clip_high=0.3, **settings).item()

    # terms: min(2, 1.3) = 1.3, min(0.5, 0.8) = 0.5, 1, and -2
    assert loss() == pytest.approx(-(1.3 + 0.5 + 1 - 2) / 4)
    assert loss(aggregation="sequence-mean") == pytest.approx(-((1.3 + 0.5 + 1) / 3 - 2) / 2)
    weights = torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0]])
    assert loss(weights=weights) == pytest.approx(-(0.5 + 0.5 - 2) / 4)
    assert loss(weights=weights, denominator="kept") == pytest.approx(-(0.5 + 0.5 - 2) / 3)
    kept_sequences = loss(weights=weights, denominator="kept", aggregation="sequence-mean")
    assert kept_sequences == pytest.approx(-((0.5 + 0.5) / 2 - 2) / 2)
    assert loss(weights=torch.zeros(2, 3), denominator="kept") == 0
    assert loss(weights=torch.zeros(2, 3, dtype=torch.bool)) == 0


def test_a_negative_advantage_is_clipped_below_and_never_above():
    old, mask = torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool)
    log_prob = torch.tensor([[0.5, 1.0, 2.0, 0.79]]).log().requires_grad_()
    loss = surrogate_loss(log_prob, old, torch.tensor([[-1.0]]), mask, clip_low=0.2, clip_high=0.2)
    loss.backward()
    assert (log_prob.grad != 0).tolist() == [[False, True, True, False]]
    ratio = log_prob.detach().exp()
    clipped = grpo.is_clipped(ratio, -torch.ones(1, 4), clip_low=0.2, clip_high=0.2)
    assert clipped.tolist() == [[True, False, False, True]]
    clipped = grpo.is_clipped(ratio, torch.ones(1, 4), clip_low=0.2, clip_high=0.2)
    assert clipped.tolist() == [[False, False, True, False]]


def test_tokens_behind_the_end_do_not_matter_even_if_infinite():
    log_prob = torch.tensor([[-1.0, -torch.inf]]).requires_grad_()
    loss = surrogate_loss(log_prob, torch.tensor([[-1.0, -1.0]]), torch.ones(1, 1), torch.tensor([[True, False]]))
    loss.backward()
    assert loss == -1 and log_prob.grad.isfinite().all()


@pytest.fixture
def batch():
    policy = build_policy(WarmStart(width=32, layers=2))
    generator = torch.Generator().manual_seed(0)
    settings = {"group_size": 3, "max_tokens": 5, "end": tasks.END, "temperature": 0.7}
    rollout = sample(policy, PROMPTS, generator=generator, **settings)
    advantages = torch.randn(12, generator=generator)
    return policy, rollout, advantages


def test_the_update_is_the_hand_written_gradient_step(batch):
    policy, rollout, advantages = batch
    twin = copy.deepcopy(policy)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    (report,) = grpo.update(policy, optimizer, rollout, advantages, StepConfig(max_grad_norm=100.0), GENERATOR)
    # On policy the ratio is 1, so the gradient is that of the mean of A log p.
    log_p = (response_logits(twin, PROMPTS, rollout.tokens) / 0.7).log_softmax(-1)
    log_prob = log_p.gather(-1, rollout.tokens.unsqueeze(-1)).squeeze(-1)
    (advantages.unsqueeze(-1) * log_prob)[rollout.mask].mean().backward()
    for ours, theirs in zip(policy.parameters(), twin.parameters()):
        assert_close(ours, theirs + 0.1 * theirs.grad, atol=1e-6, rtol=1e-5)
    norm = torch.cat([p.grad.flatten() for p in twin.parameters()]).norm().item()
    assert report.gradient_norm == pytest.approx(norm, rel=1e-4)
    assert_close(report.ratio, torch.ones_like(report.ratio), atol=1e-5, rtol=0)
    assert not report.clipped.any()


def test_the_gradient_norm_is_bounded(batch):
    policy, rollout, advantages = batch
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    (report,) = grpo.update(policy, optimizer, rollout, advantages, StepConfig(max_grad_norm=1e-3), GENERATOR)
    step = torch.cat([(p - b).flatten() for p, b in zip(policy.parameters(), before)]).norm().item()
    assert report.gradient_norm > 1e-3 and step == pytest.approx(1e-3, rel=1e-2)


def test_several_updates_move_the_ratio_and_then_clip(batch):
    policy, rollout, advantages = batch
    optimizer = torch.optim.SGD(policy.parameters(), lr=3.0)
    reports = grpo.update(policy, optimizer, rollout, advantages, StepConfig(updates=4), GENERATOR)
    assert len(reports) == 4
    assert (reports[-1].ratio[rollout.mask] - 1).abs().max() > 0.2
    assert reports[-1].clipped.any() and not reports[-1].clipped[~rollout.mask].any()


def test_the_rule_decides_whose_gradient_counts(batch, monkeypatch):
    policy, rollout, advantages = batch
    monkeypatch.setitem(RULES, "nothing", lambda batch, generator: torch.zeros_like(batch.mask))
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    grpo.update(policy, optimizer, rollout, advantages, StepConfig(rule=Rule(name="nothing")), GENERATOR)
    assert all(torch.equal(p, b) for p, b in zip(policy.parameters(), before))


def test_advantages_of_zero_change_nothing(batch):
    policy, rollout, _ = batch
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    grpo.update(policy, optimizer, rollout, torch.zeros(12), StepConfig(), GENERATOR)
    assert all(torch.equal(p, b) for p, b in zip(policy.parameters(), before))


def test_an_infinite_gradient_stops_the_run_and_spares_the_policy(batch):
    policy, rollout, advantages = batch
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    with pytest.raises(FloatingPointError, match="gradient norm is"):
        grpo.update(policy, optimizer, rollout, advantages * torch.inf, StepConfig(), GENERATOR)
    assert all(torch.equal(p, b) for p, b in zip(policy.parameters(), before))


def test_unknown_or_impossible_settings_name_the_field():
    for settings in ({"updates": 0}, {"clip_low": 2.0}, {"aggregation": "mean"}, {"mu": 1}):
        with pytest.raises(ValidationError, match=next(iter(settings))):
            StepConfig(**settings)
