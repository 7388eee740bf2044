"""Advantages, loss and one step of a toy policy, against numbers by hand and a direct gradient."""

import copy
import dataclasses
import math

import pytest
import torch
from torch.testing import assert_close

from entropy_dynamics import grpo, methods
from entropy_dynamics.grpo import group_advantages
from entropy_dynamics.methods import Terms, TokenBatch
from entropy_dynamics.token_statistics import TokenStatistics

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


def batch_of(old, advantages, mask, *, dtype=torch.float64):
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
    batch = batch_of(torch.zeros(2, 3).double(), torch.tensor([[1.0], [-2.0]]), mask)
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


@pytest.mark.parametrize("name", ["log_prob", "entropy"])
def test_a_loss_of_values_that_would_broadcast_is_refused(name):
    batch = batch_of(torch.zeros(2, 3), torch.tensor([[1.0], [-2.0]]), torch.ones(2, 3, dtype=torch.bool))
    values = {"log_prob": torch.zeros(2, 3), "entropy": torch.zeros(2, 3), name: torch.zeros(2, 1)}
    with pytest.raises(ValueError, match=rf"{name} has shape \(2, 1\), expected \(2, 3\)"):
        grpo.loss(values["log_prob"], values["entropy"], batch, as_terms(torch.ones(2, 3)))


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.1, 0.28)])
def test_the_gradient_is_that_of_the_clipped_surrogate(low, high):
    generator = torch.Generator().manual_seed(0)
    log_prob, old = torch.randn(2, 50, 8, generator=generator, dtype=torch.float64) * 0.3
    log_prob.requires_grad_()
    advantages = torch.randn(50, 1, generator=generator, dtype=torch.float64)
    mask = torch.rand(50, 8, generator=generator) < 0.8
    now = batch_of(log_prob.detach(), advantages, mask).statistics
    batch = dataclasses.replace(batch_of(old, advantages, mask), statistics=now)
    terms = methods.as_terms(batch, methods.grpo(batch, GENERATOR, clip_low=low, clip_high=high))
    (ours,) = torch.autograd.grad(grpo.loss(log_prob, now.entropy, batch, terms), log_prob)
    ratio = (log_prob - old).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    (theirs,) = torch.autograd.grad(-surrogate[mask].mean(), log_prob)
    assert_close(ours, theirs)
    assert (theirs[mask] == 0).any()
    assert_close(ours, -terms.of_log_prob(batch) / mask.sum())  # what the lens reads is what the gradient is


def test_tokens_behind_the_end_do_not_matter_even_if_infinite():
    log_prob = torch.tensor([[-1.0, -torch.inf]], dtype=torch.float64).requires_grad_()
    batch = batch_of(torch.tensor([[-1.0, -1.0]]).double(), torch.ones(1, 1), torch.tensor([[True, False]]))
    value = grpo.loss(log_prob, torch.zeros(1, 2), batch, as_terms(torch.ones(1, 2)))
    value.backward()
    assert value == -1 and log_prob.grad.isfinite().all()


TEMPERATURE = 0.7


class Toy:
    """A linear policy and what it did: three responses to each of two prompts, the first of which were all alike."""

    def __init__(self, dtype=torch.float64):
        generator = torch.Generator().manual_seed(0)
        self.states = torch.randn(6, 5, 4, generator=generator, dtype=dtype)
        self.policy = torch.nn.Linear(4, 7, dtype=dtype)
        for parameter in self.policy.parameters():
            torch.nn.init.normal_(parameter, generator=generator)
        self.tokens = torch.randint(7, (6, 5), generator=generator)
        self.mask = torch.arange(5) < torch.tensor([[5], [2], [4], [3], [5], [1]])
        self.rewards = torch.tensor([[1, 1, 1], [0.0, 1.0, 0.3]], dtype=dtype)

    def batch(self, **settings):
        logits = self.policy(self.states)
        return grpo.token_batch(logits, self.tokens, self.mask, self.rewards, temperature=TEMPERATURE, **settings)

    def step(self, batch, terms, *, rows=None, learning_rate=0.1, **settings):
        rows = grpo.counting_rows(batch, terms) if rows is None else rows
        optimizer = torch.optim.SGD(self.policy.parameters(), lr=learning_rate)
        logits, tokens = self.policy(self.states[rows]), self.tokens[rows]
        settings = {"temperature": TEMPERATURE, "max_grad_norm": 100.0} | settings
        return grpo.step(logits, tokens, rows, batch, terms, optimizer, **settings)

    def log_policy(self):
        return (self.policy(self.states) / TEMPERATURE).log_softmax(-1)

    def log_prob(self):
        return self.log_policy().gather(-1, self.tokens.unsqueeze(-1)).squeeze(-1)

    def advantages(self):
        return group_advantages(self.rewards).view(6, 1).expand(6, 5)

    def weights(self):
        return torch.cat([parameter.detach().flatten() for parameter in self.policy.parameters()])

    def ascend(self, objective, learning_rate=0.1):
        """A gradient step by hand; returns the gradient's norm."""
        gradients = torch.autograd.grad(objective, self.policy.parameters())
        with torch.no_grad():
            for parameter, gradient in zip(self.policy.parameters(), gradients):
                parameter += learning_rate * gradient
        return torch.cat([gradient.flatten() for gradient in gradients]).norm().item()


@pytest.fixture
def toy():
    return Toy()


def test_token_batch_is_what_a_rule_may_see(toy):
    batch = toy.batch(update=2, entropies=(0.5,))
    p = toy.log_policy().detach().exp()
    entropy = -(p * p.log()).sum(-1)
    assert_close(batch.statistics.log_prob, toy.log_prob().detach())
    assert_close(batch.statistics.entropy, entropy)
    assert batch.old is batch.statistics and torch.equal(batch.ratio, torch.ones(6, 5, dtype=torch.float64))
    assert_close(batch.advantages, toy.advantages())
    assert torch.equal(batch.rewards, toy.rewards.view(6, 1).expand(6, 5)) and batch.mask is toy.mask
    assert batch.groups.tolist() == [0, 0, 0, 1, 1, 1] and batch.update == 2
    assert batch.entropies == pytest.approx((0.5, entropy[toy.mask].mean().item()))
    assert not any(x.requires_grad for x in (*batch.statistics[:4], batch.advantages, batch.ratio))
    population = toy.batch(correction=0).advantages
    assert_close(population[3:], group_advantages(toy.rewards[1], correction=0).view(3, 1).expand(3, 5))


def test_a_later_batch_remembers_the_first(toy):
    first = toy.batch(entropies=(0.5,))
    toy.policy.weight.data *= 1.1
    later = toy.batch(first=first, update=1)
    assert later.old is first.statistics and later.entropies == first.entropies
    assert_close(later.ratio, (toy.log_prob().detach() - first.statistics.log_prob).exp())
    assert (later.ratio - 1).abs().max() > 0.01


@pytest.mark.parametrize("rewards", [torch.zeros(2, 2), torch.zeros(3, 3), torch.zeros(6), torch.tensor(1.0)])
def test_rewards_are_one_for_each_response(toy, rewards):
    toy.rewards = rewards
    with pytest.raises(ValueError, match=r"rewards have shape .*, expected \(P, G\) with P G = 6"):
        toy.batch()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_the_policy_is_kept(dtype):
    toy = Toy(dtype)
    batch = toy.batch()
    terms = methods.repo(batch, GENERATOR)
    assert {x.dtype for x in (*batch.statistics[:4], batch.advantages, batch.ratio, *terms)} == {dtype}
    toy.step(batch, terms)
    assert {x.dtype for x in (*toy.policy.parameters(), toy.policy.weight.grad)} == {dtype}


def test_rows_that_count(toy):
    batch = toy.batch()
    ones = torch.ones(6, 5, dtype=torch.float64)
    none = torch.zeros_like(ones)
    later = ones.clone()
    later[3, :3] = 0.0  # all of this response; ones remain behind its end
    single = none.clone()
    single[0, 4], single[1, 2] = 0.1, 0.1  # the second lies behind the end
    for terms, rows in (
        (Terms(ones, none, none), [3, 4, 5]),  # the first group has A = 0
        (Terms(later, none, none), [4, 5]),
        (Terms(none, single, none), [0]),
        (Terms(none, none, single), [0]),
        (Terms(none, none, none), []),
    ):
        assert grpo.counting_rows(batch, terms).nonzero().flatten().tolist() == rows


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean"])
def test_a_step_is_the_hand_written_gradient_step(toy, aggregation):
    twin = copy.deepcopy(toy)
    batch = toy.batch()
    norm = toy.step(batch, methods.as_terms(batch, methods.grpo(batch, GENERATOR)), aggregation=aggregation)
    # On policy the ratio is 1, so the gradient is that of the mean of A log p; the group with A = 0 counts in the mean.
    each = (twin.advantages() * twin.log_prob()).where(twin.mask, 0.0)
    lengths = twin.mask.sum(-1)
    mean = each.sum() / lengths.sum() if aggregation == "token-mean" else (each.sum(-1) / lengths).mean()
    assert norm == pytest.approx(twin.ascend(mean), rel=1e-12)
    assert_close(toy.weights(), twin.weights(), rtol=1e-12, atol=1e-14)


def test_a_second_step_is_that_of_the_clipped_surrogate(toy):
    first = toy.batch()
    for parameter in toy.policy.parameters():
        parameter.data *= 1.3
    twin = copy.deepcopy(toy)
    batch = toy.batch(first=first, update=1)
    kept = methods.grpo(batch, GENERATOR)
    assert (kept != toy.mask).any()
    toy.step(batch, methods.as_terms(batch, kept))
    ratio, a = (twin.log_prob() - first.statistics.log_prob).exp(), twin.advantages()
    twin.ascend(torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)[twin.mask].mean())
    assert_close(toy.weights(), twin.weights(), rtol=1e-12, atol=1e-14)


def test_an_entropy_term_is_the_gradient_of_the_mean_entropy(toy):
    toy.rewards = torch.zeros(2, 3, dtype=torch.float64)
    twin = copy.deepcopy(toy)
    batch = toy.batch()
    toy.step(batch, methods.entropy_bonus(batch, GENERATOR, coefficient=0.5))
    log_p = twin.log_policy()
    twin.ascend(0.5 * -(log_p.exp() * log_p).sum(-1)[twin.mask].mean())
    assert_close(toy.weights(), twin.weights(), rtol=1e-12, atol=1e-14)


def test_rows_that_do_not_count_may_stay_out(toy):
    twin = copy.deepcopy(toy)
    batch = toy.batch()
    terms = methods.as_terms(batch, methods.clip_b(batch, GENERATOR, mu=0.5))
    assert toy.step(batch, terms) == pytest.approx(twin.step(batch, terms, rows=torch.ones(6, dtype=torch.bool)))
    assert_close(toy.weights(), twin.weights(), rtol=1e-12, atol=1e-14)


def test_the_gradient_norm_is_bounded(toy):
    before, batch = toy.weights(), toy.batch()
    terms = methods.as_terms(batch, methods.grpo(batch, GENERATOR))
    norm = toy.step(batch, terms, learning_rate=1.0, max_grad_norm=1e-3)
    assert norm > 1e-3 and (toy.weights() - before).norm().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("coefficient", [torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_spares_the_policy(toy, coefficient):
    before, batch = toy.weights(), toy.batch()
    with pytest.raises(FloatingPointError, match="gradient norm is"):
        toy.step(batch, methods.as_terms(batch, torch.full((6, 5), coefficient)))
    assert torch.equal(toy.weights(), before)
