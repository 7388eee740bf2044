"""Whole updates of the small policy, against a hand-written gradient step."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from companion.laboratory.ledger import mean_entropy
from companion.laboratory.policies import WarmStart, build_policy
from companion.laboratory.rollout import response_logits, sample
from companion.laboratory.rule import Rule
from companion.laboratory.updates import Control, StepConfig, update
from companion.puzzles import tasks
from entropy_dynamics import clipping, grpo
from entropy_dynamics.grpo import group_advantages
from entropy_dynamics.methods import RULES, is_clipped

PROMPTS = torch.tensor([tasks.encode(problem.prompt) for problem in tasks.split(3).training[:4]])
GENERATOR = torch.Generator()


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
    (report,) = update(policy, optimizer, rollout, rewards, StepConfig(max_grad_norm=100.0), GENERATOR)
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
    (report,) = update(policy, optimizer, rollout, rewards, StepConfig(max_grad_norm=1e-3), GENERATOR)
    step = torch.cat([(p - b).flatten() for p, b in zip(policy.parameters(), before)]).norm().item()
    assert report.gradient_norm > 1e-3 and step == pytest.approx(1e-3, rel=1e-2)


def test_several_updates_move_the_ratio_and_then_clip(batch):
    policy, rollout, rewards = batch
    optimizer = torch.optim.SGD(policy.parameters(), lr=3.0)
    reports = update(policy, optimizer, rollout, rewards, StepConfig(updates=4), GENERATOR)
    assert len(reports) == 4
    last = reports[-1].batch
    assert [report.batch.update for report in reports] == [0, 1, 2, 3]
    assert (last.ratio[rollout.mask] - 1).abs().max() > 0.2
    clipped = is_clipped(last.ratio, last.advantages) & rollout.mask
    assert clipped.any() and torch.equal(reports[-1].terms.weights == 0, clipped | ~rollout.mask)
    before = reports[0].batch.statistics.log_prob
    assert all(torch.equal(report.batch.old.log_prob, before) for report in reports)


def test_the_second_update_sees_the_logits_of_the_policy_then(batch):
    policy, rollout, rewards = batch
    twin = copy.deepcopy(policy)
    update(twin, torch.optim.SGD(twin.parameters(), lr=0.5), rollout, rewards, StepConfig(), GENERATOR)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    report = update(policy, optimizer, rollout, rewards, StepConfig(updates=2), GENERATOR)[1]
    assert_close(report.logits, response_logits(twin, PROMPTS, rollout.tokens).detach())


def test_strictly_on_policy_is_one_update_of_grpo(batch):
    policy, rollout, rewards = batch
    twin = copy.deepcopy(policy)
    for model, config in (
        (policy, StepConfig(updates=2, rule=Rule(name="on_policy"))),
        (twin, StepConfig(updates=1)),
    ):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        update(model, optimizer, rollout, rewards, config, GENERATOR)
    assert all(torch.equal(p, q) for p, q in zip(policy.parameters(), twin.parameters()))


def test_an_entropy_bonus_is_the_gradient_of_the_mean_entropy(batch):
    policy, rollout, _ = batch
    twin = copy.deepcopy(policy)
    config = StepConfig(rule=Rule(name="entropy_bonus", options={"coefficient": 0.5}), max_grad_norm=100.0)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    update(policy, optimizer, rollout, torch.zeros(4, 3), config, GENERATOR)
    mean_entropy(twin, rollout).backward()
    for ours, theirs in zip(policy.parameters(), twin.parameters()):
        assert_close(ours, theirs + 0.1 * 0.5 * theirs.grad, atol=1e-6, rtol=1e-4)


def test_the_rule_decides_whose_gradient_counts(batch, monkeypatch):
    policy, rollout, rewards = batch
    monkeypatch.setitem(RULES, "nothing", lambda batch, generator: torch.zeros_like(batch.mask))
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    update(policy, optimizer, rollout, rewards, StepConfig(rule=Rule(name="nothing")), GENERATOR)
    assert all(torch.equal(p, b) for p, b in zip(policy.parameters(), before))


def test_advantages_of_zero_change_nothing(batch):
    policy, rollout, _ = batch
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    update(policy, optimizer, rollout, torch.zeros(4, 3), StepConfig(), GENERATOR)
    assert all(torch.equal(p, b) for p, b in zip(policy.parameters(), before))


def test_an_infinite_gradient_stops_the_run_and_spares_the_policy(batch, monkeypatch):
    monkeypatch.setitem(RULES, "infinite", lambda batch, generator: torch.full(batch.mask.shape, torch.inf))
    policy, rollout, rewards = batch
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    with pytest.raises(FloatingPointError, match="gradient norm is"):
        update(policy, optimizer, rollout, rewards, StepConfig(rule=Rule(name="infinite")), GENERATOR)
    assert all(torch.equal(p, b) for p, b in zip(policy.parameters(), before))


def test_unknown_or_impossible_settings_name_the_field():
    for settings in ({"updates": 0}, {"max_grad_norm": 0}, {"aggregation": "mean"}, {"mu": 1}):
        with pytest.raises(ValidationError, match=next(iter(settings))):
            StepConfig(**settings)


def test_an_update_on_each_half_is_that_half_alone(batch):
    policy, rollout, rewards = batch
    twin = copy.deepcopy(policy)
    optimizer, other = (torch.optim.SGD(model.parameters(), lr=1.0) for model in (policy, twin))
    reports = update(policy, optimizer, rollout, rewards, StepConfig(parts=2), GENERATOR)
    halves = [slice(0, 2), slice(2, 4)]
    update(twin, other, rollout.part(halves[0]), rewards[halves[0]], StepConfig(), GENERATOR)
    second = rollout.part(halves[1])
    logits = response_logits(twin, second.prompts, second.tokens)
    assert_close(reports[1].logits, logits.detach())
    log_p = (logits / 0.7).log_softmax(-1).gather(-1, second.tokens.unsqueeze(-1)).squeeze(-1)
    ratio = (log_p - second.log_prob).exp()
    advantages = group_advantages(rewards[halves[1]]).flatten().unsqueeze(-1)
    kept = second.mask & ~is_clipped(ratio, advantages)
    assert (ratio - 1)[second.mask].abs().max() > 0.05
    other.zero_grad()
    (-(ratio * advantages).where(kept, 0.0).sum() / second.mask.sum()).backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
    other.step()
    for ours, theirs in zip(policy.parameters(), twin.parameters()):
        assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_masks_decided_once_a_batch_come_from_the_policy_that_sampled(batch):
    policy, rollout, rewards = batch
    seen = {}
    for masks in ("each update", "once a batch"):
        model = copy.deepcopy(policy)
        config = StepConfig(rule=Rule(name="clip_v", options={"mu": 0.3}), masks=masks, parts=2)
        seen[masks] = update(model, torch.optim.SGD(model.parameters(), lr=3.0), rollout, rewards, config, GENERATOR)
    whole = grpo.token_batch(rollout.logits, rollout.tokens, rollout.mask, rewards, temperature=0.7)
    kept = clipping.clip_v(whole.statistics, whole.advantages, whole.mask, mu=0.3)
    for number, report in enumerate(seen["once a batch"]):
        rows, b = slice(6 * number, 6 * number + 6), report.batch
        expected = b.mask & kept[rows] & ~is_clipped(b.ratio, b.advantages)
        assert torch.equal(report.terms.weights.bool() & b.mask, expected) and (b.mask & ~kept[rows]).any()
    second = seen["each update"][1].batch
    anew = clipping.clip_v(second.statistics, second.advantages, second.mask, mu=0.3)
    assert torch.equal(
        seen["each update"][1].terms.weights.bool(), second.mask & anew & ~is_clipped(second.ratio, second.advantages)
    )
    assert not torch.equal(anew, kept[6:])


def test_a_controller_gives_the_rule_its_strength_once_a_batch(batch):
    policy, rollout, rewards = batch
    entropy = mean_entropy(policy, rollout).item()
    control = Control(option="coefficient", target=entropy + 0.1, effect=0.05, horizon=4, largest=2.0)
    config = StepConfig(rule=Rule(name="entropy_bonus"), control=control, updates=2)
    controller, twin = control.controller(19), control.controller(19)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    reports = update(policy, optimizer, rollout, rewards, config, GENERATOR, controller=controller)
    strength = twin.update(reports[0].batch.entropies[-1])
    assert strength == pytest.approx(0.1 * (1 / 0.2 + 1 / 3.2), rel=1e-4) and controller == twin
    for report in reports:
        assert torch.equal(report.terms.entropy, strength * rollout.mask)
    with pytest.raises(ValueError, match="has no option 'mu'; it has coefficient"):
        Rule(name="entropy_bonus").with_option("mu", 1.0)


def test_parts_must_divide_the_prompts(batch):
    policy, rollout, rewards = batch
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="4 prompts do not divide into 3 equal parts"):
        update(policy, optimizer, rollout, rewards, StepConfig(parts=3), GENERATOR)
