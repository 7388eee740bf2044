"""Advantages, loss and one whole update, against numbers by hand and a direct gradient."""

import copy
import dataclasses
import math

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from companion.laboratory import tasks
from companion.laboratory.ledger import mean_entropy
from companion.laboratory.policies import WarmStart, build_policy
from companion.laboratory.rollout import response_logits, sample
from entropy_dynamics import grpo
from entropy_dynamics.grpo import StepConfig, group_advantages
from entropy_dynamics.methods import RULES, Rule, Terms, TokenBatch, is_clipped
from entropy_dynamics.token_statistics import TokenStatistics

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


def token_batch(old, advantages, mask, *, dtype=torch.float64):
    shape = mask.shape
    zero = torch.zeros(shape, dtype=dtype)
    old = TokenStatistics(old, zero, zero, zero)
    return TokenBatch(old, old, advantages.expand(shape), zero, mask, torch.zeros(shape[0], dtype=torch.long))


def as_terms(weights, log_prob=0.0, entropy=0.0):
    weights = torch.as_tensor(weights, dtype=torch.float64)
    return Terms(weights, torch.zeros_like(weights) + log_prob, torch.zeros_like(weights) + entropy)


def test_loss_by_hand():
    # ratios 2, 1 / 2, 1 (one response) and 1 (another, with two tokens masked)
    log_prob = torch.tensor([[2.0, 0.5, 1.0], [1.0, 7.0, 7.0]]).double().log()
    mask = torch.tensor([[True, True, True], [True, False, False]])
    batch = token_batch(torch.zeros(2, 3).double(), torch.tensor([[1.0], [-2.0]]), mask)
    entropy = torch.full((2, 3), 0.5)

    def value(terms, **settings):
        return grpo.loss(log_prob, entropy, batch, terms, **settings).item()

    ones = as_terms(torch.ones(2, 3))
    assert value(ones) == pytest.approx(-(2 + 0.5 + 1 - 2) / 4)
    assert value(ones, aggregation="sequence-mean") == pytest.approx(-((2 + 0.5 + 1) / 3 - 2) / 2)
    some = as_terms([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0]])
    assert value(some) == pytest.approx(-(0.5 + 0.5 - 2) / 4)
    assert value(some, denominator="kept") == pytest.approx(-(0.5 + 0.5 - 2) / 3)
    kept_sequences = value(some, denominator="kept", aggregation="sequence-mean")
    assert kept_sequences == pytest.approx(-((0.5 + 0.5) / 2 - 2) / 2)
    assert value(as_terms(torch.zeros(2, 3)), denominator="kept") == 0
    added = as_terms(torch.zeros(2, 3), log_prob=0.1, entropy=0.2)
    assert value(added) == pytest.approx(-(0.1 * (math.log(2) - math.log(2) + 0) + 4 * 0.2 * 0.5) / 4)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.1, 0.28)])
def test_the_gradient_is_that_of_the_clipped_surrogate(low, high):
    generator = torch.Generator().manual_seed(0)
    log_prob, old = torch.randn(2, 50, 8, generator=generator, dtype=torch.float64) * 0.3
    log_prob.requires_grad_()
    advantages = torch.randn(50, 1, generator=generator, dtype=torch.float64)
    mask = torch.rand(50, 8, generator=generator) < 0.8
    now = token_batch(log_prob.detach(), advantages, mask).statistics
    batch = dataclasses.replace(token_batch(old, advantages, mask), statistics=now)
    terms = Rule(options={"clip_low": low, "clip_high": high})(batch, GENERATOR)
    (ours,) = torch.autograd.grad(grpo.loss(log_prob, now.entropy, batch, terms), log_prob)
    ratio = (log_prob - old).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    (theirs,) = torch.autograd.grad(-surrogate[mask].mean(), log_prob)
    assert_close(ours, theirs)
    assert (theirs[mask] == 0).any()
    assert_close(ours, -terms.of_log_prob(batch) / mask.sum())  # what the lens reads is what the gradient is


def test_tokens_behind_the_end_do_not_matter_even_if_infinite():
    log_prob = torch.tensor([[-1.0, -torch.inf]], dtype=torch.float64).requires_grad_()
    batch = token_batch(torch.tensor([[-1.0, -1.0]]).double(), torch.ones(1, 1), torch.tensor([[True, False]]))
    value = grpo.loss(log_prob, torch.zeros(1, 2), batch, as_terms(torch.ones(1, 2)))
    value.backward()
    assert value == -1 and log_prob.grad.isfinite().all()


@pytest.fixture
def batch():
    policy = build_policy(WarmStart(width=32, layers=2))
    generator = torch.Generator().manual_seed(0)
    settings = {"group_size": 3, "max_tokens": 5, "end": tasks.END, "temperature": 0.7}
    rollout = sample(policy, PROMPTS, generator=generator, **settings)
    rewards = torch.randn(4, 3, generator=generator)
    return policy, rollout, rewards


def test_the_update_is_the_hand_written_gradient_step(batch):
    policy, rollout, rewards = batch
    twin = copy.deepcopy(policy)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    (report,) = grpo.update(policy, optimizer, rollout, rewards, StepConfig(max_grad_norm=100.0), GENERATOR)
    # On policy the ratio is 1, so the gradient is that of the mean of A log p.
    log_p = (response_logits(twin, PROMPTS, rollout.tokens) / 0.7).log_softmax(-1)
    log_prob = log_p.gather(-1, rollout.tokens.unsqueeze(-1)).squeeze(-1)
    advantages = group_advantages(rewards).flatten()
    (advantages.unsqueeze(-1) * log_prob)[rollout.mask].mean().backward()
    for ours, theirs in zip(policy.parameters(), twin.parameters()):
        assert_close(ours, theirs + 0.1 * theirs.grad, atol=1e-6, rtol=1e-5)
    norm = torch.cat([p.grad.flatten() for p in twin.parameters()]).norm().item()
    assert report.gradient_norm == pytest.approx(norm, rel=1e-4)
    assert torch.equal(report.batch.ratio, torch.ones_like(report.batch.ratio))  # exactly 1 on a fresh batch


def test_the_gradient_norm_is_bounded(batch):
    policy, rollout, rewards = batch
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    (report,) = grpo.update(policy, optimizer, rollout, rewards, StepConfig(max_grad_norm=1e-3), GENERATOR)
    step = torch.cat([(p - b).flatten() for p, b in zip(policy.parameters(), before)]).norm().item()
    assert report.gradient_norm > 1e-3 and step == pytest.approx(1e-3, rel=1e-2)


def test_several_updates_move_the_ratio_and_then_clip(batch):
    policy, rollout, rewards = batch
    optimizer = torch.optim.SGD(policy.parameters(), lr=3.0)
    reports = grpo.update(policy, optimizer, rollout, rewards, StepConfig(updates=4), GENERATOR)
    assert len(reports) == 4
    last = reports[-1].batch
    assert [report.batch.update for report in reports] == [0, 1, 2, 3]
    assert (last.ratio[rollout.mask] - 1).abs().max() > 0.2
    clipped = is_clipped(last.ratio, last.advantages) & rollout.mask
    assert clipped.any() and torch.equal(reports[-1].terms.weights == 0, clipped | ~rollout.mask)
    assert all(report.batch.old is reports[0].batch.statistics for report in reports)


def test_the_second_update_sees_the_logits_of_the_policy_then(batch):
    policy, rollout, rewards = batch
    twin = copy.deepcopy(policy)
    grpo.update(twin, torch.optim.SGD(twin.parameters(), lr=0.5), rollout, rewards, StepConfig(), GENERATOR)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    report = grpo.update(policy, optimizer, rollout, rewards, StepConfig(updates=2), GENERATOR)[1]
    assert_close(report.logits, response_logits(twin, PROMPTS, rollout.tokens).detach())


def test_strictly_on_policy_is_one_update_of_grpo(batch):
    policy, rollout, rewards = batch
    twin = copy.deepcopy(policy)
    for model, config in (
        (policy, StepConfig(updates=2, rule=Rule(name="on_policy"))),
        (twin, StepConfig(updates=1)),
    ):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        grpo.update(model, optimizer, rollout, rewards, config, GENERATOR)
    assert all(torch.equal(p, q) for p, q in zip(policy.parameters(), twin.parameters()))


def test_an_entropy_bonus_is_the_gradient_of_the_mean_entropy(batch):
    policy, rollout, _ = batch
    twin = copy.deepcopy(policy)
    config = StepConfig(rule=Rule(name="entropy_bonus", options={"coefficient": 0.5}), max_grad_norm=100.0)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    grpo.update(policy, optimizer, rollout, torch.zeros(4, 3), config, GENERATOR)
    mean_entropy(twin, rollout).backward()
    for ours, theirs in zip(policy.parameters(), twin.parameters()):
        assert_close(ours, theirs + 0.1 * 0.5 * theirs.grad, atol=1e-6, rtol=1e-4)


def test_the_rule_decides_whose_gradient_counts(batch, monkeypatch):
    policy, rollout, rewards = batch
    monkeypatch.setitem(RULES, "nothing", lambda batch, generator: torch.zeros_like(batch.mask))
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    grpo.update(policy, optimizer, rollout, rewards, StepConfig(rule=Rule(name="nothing")), GENERATOR)
    assert all(torch.equal(p, b) for p, b in zip(policy.parameters(), before))


def test_advantages_of_zero_change_nothing(batch):
    policy, rollout, _ = batch
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    grpo.update(policy, optimizer, rollout, torch.zeros(4, 3), StepConfig(), GENERATOR)
    assert all(torch.equal(p, b) for p, b in zip(policy.parameters(), before))


def test_an_infinite_gradient_stops_the_run_and_spares_the_policy(batch, monkeypatch):
    monkeypatch.setitem(RULES, "infinite", lambda batch, generator: torch.full(batch.mask.shape, torch.inf))
    policy, rollout, rewards = batch
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    with pytest.raises(FloatingPointError, match="gradient norm is"):
        grpo.update(policy, optimizer, rollout, rewards, StepConfig(rule=Rule(name="infinite")), GENERATOR)
    assert all(torch.equal(p, b) for p, b in zip(policy.parameters(), before))


def test_unknown_or_impossible_settings_name_the_field():
    for settings in ({"updates": 0}, {"max_grad_norm": 0}, {"aggregation": "mean"}, {"mu": 1}):
        with pytest.raises(ValidationError, match=next(iter(settings))):
            StepConfig(**settings)
