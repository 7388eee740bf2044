import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime
from scipy.special import log_softmax, softmax

from companion.dynamics import flows
from companion.mathematics.batches import VARIANTS, gain
from entropy_dynamics import clipping, theory
from entropy_dynamics.token_statistics import TokenStatistics

TIMES = np.array([0, 0.3, 1, 3, 10, 30, 100, 300])
REWARDS, START = [1.0, 0.7, 0.2, 0.0], [-0.8, 0.5, 0.0, 0.2]


def difference(field, times=TIMES):
    z = flows.integrate(field, [0, 0], times)
    return z[:, 0] - z[:, 1]


def test_the_fields_are_gradients_of_what_they_climb():
    z, reference, beta = np.array(START), np.array([0.5, 0.0, -0.5, 0.1]), 0.3

    def regularised(x):
        p = softmax(x)
        return p @ np.array(REWARDS) - beta * p @ (log_softmax(x) - log_softmax(reference))

    reward = approx_fprime(z, lambda x: softmax(x) @ np.array(REWARDS), 1e-7)
    np.testing.assert_allclose(flows.policy_gradient(REWARDS)(z), reward, atol=1e-6)
    gradient = approx_fprime(z, regularised, 1e-7)
    np.testing.assert_allclose(flows.regularised(REWARDS, reference, beta)(z), gradient, atol=1e-6)
    p = softmax(z)
    fisher = np.diag(p) - np.outer(p, p)
    np.testing.assert_allclose(fisher @ flows.natural_gradient(REWARDS)(z), flows.policy_gradient(REWARDS)(z))
    signs = flows.sign_descent(REWARDS)(z)
    assert signs.tolist() == np.sign(flows.policy_gradient(REWARDS)(z)).tolist() == [1, 1, -1, -1]


@pytest.mark.parametrize("clip", [clipping.clip_b, clipping.clip_v])
@pytest.mark.parametrize(("mu", "masked"), [(1.3, [2, 3]), (1.45, [2]), (2.5, [])])
def test_the_masks_are_those_of_clipping_on_a_batch_in_proportion_to_the_policy(clip, mu, masked):
    counts, rewards = torch.tensor([14, 3, 2, 1]), torch.tensor([0.3, 1.0, 0.0, 0.1], dtype=torch.float64)
    z = (counts / 20.0).double().log()
    tokens = torch.arange(4).repeat_interleave(counts)
    s = theory.discriminator(z)[tokens]
    statistics = TokenStatistics(z[tokens], s, s, theory.expected_discriminator(z).expand(20))
    advantages = (rewards - (z.exp() * rewards).sum())[tokens]
    keep = clip(statistics, advantages, torch.ones(20, dtype=torch.bool), mu=mu)
    pull = theory.grpo_logit_update(z.expand(20, 4), tokens, keep * advantages).mean(0)
    np.testing.assert_allclose(flows.masked(rewards.numpy(), mu)(z.numpy()), pull, atol=1e-12)
    assert tokens[~keep].unique().tolist() == masked


def test_two_arms_against_the_integrator():
    np.testing.assert_allclose(difference(flows.policy_gradient([0.9, 0.2])), flows.two_arms(TIMES, 0.7), atol=1e-8)
    standardised = flows.policy_gradient([1, 0], gain=lambda rate: 1 / np.sqrt(rate * (1 - rate)))
    np.testing.assert_allclose(difference(standardised), flows.two_arms_standardised(TIMES), atol=1e-8)
    np.testing.assert_allclose(difference(flows.natural_gradient([0.7, 0]), TIMES[:5]), 0.7 * TIMES[:5], atol=1e-8)
    np.testing.assert_allclose(difference(flows.sign_descent([0.7, 0]), TIMES[:5]), 2 * TIMES[:5], atol=1e-8)
    assert np.abs(difference(flows.policy_gradient([0.9, 0.2])) - flows.two_arms(TIMES, 0.69)).max() > 1e-3


@pytest.mark.parametrize("mu", [1.0, 2.0, 8.5])
def test_the_masked_path_against_the_integrator(mu):
    measured = difference(flows.masked([0.7, 0], mu))
    np.testing.assert_allclose(measured, flows.two_arms_masked(TIMES, mu, 0.7), atol=1e-8)
    assert np.abs(measured - flows.two_arms_masked(TIMES, 1.1 * mu, 0.7)).max() > 1e-3


def test_two_arm_entropy():
    s = np.array([0.0, 0.5, 3.0, 30.0])
    expected = flows.entropy(np.stack([s, np.zeros(4)], -1))
    np.testing.assert_allclose(flows.two_arm_entropy(s), expected, rtol=1e-3, atol=1e-15)
    assert flows.two_arm_entropy(np.array([700.0])) == pytest.approx(701 * np.exp(-700.0))


def test_entropy_along_a_flow():
    expected = flows.two_arm_entropy(flows.two_arms(TIMES[1:]))
    np.testing.assert_allclose(flows.entropy_along(flows.policy_gradient([1, 0]), TIMES[1:]), expected, atol=1e-8)


def test_many_arms_against_the_integrator():
    times, logits = flows.many_arms(REWARDS, START, [0, 0.2, 1.0, 3.0])
    np.testing.assert_allclose(flows.integrate(flows.policy_gradient(REWARDS), START, times), logits, atol=1e-8)
    np.testing.assert_allclose(logits[0], START, atol=1e-12)
    assert times[-1] > 10
    other, _ = flows.many_arms([1.0, 0.7, 0.2, 0.1], START, [0, 0.2, 1.0, 3.0])
    assert abs(other[-1] - times[-1]) > 0.1


def test_the_regularised_flow_comes_to_its_fixed_point():
    reference, beta = [0.5, 0.0, -0.5, 0.1], 0.4
    rest = flows.fixed_point(REWARDS, reference, beta)
    field = flows.regularised(REWARDS, reference, beta)
    assert np.abs(field(rest)).max() < 1e-14 < 1e-3 < np.abs(field(1.1 * rest)).max()
    path = flows.integrate(field, START, [0, 5000])
    np.testing.assert_allclose(softmax(path[-1]), softmax(rest), atol=1e-9)
    times = [0, 0.5, 2, 10]

    def natural(z):
        return np.asarray(REWARDS) - beta * (log_softmax(z) - log_softmax(reference))

    measured = log_softmax(flows.integrate(natural, START, times), axis=-1)
    expected = flows.regularised_natural(REWARDS, reference, beta, START, times)
    np.testing.assert_allclose(measured, expected, atol=1e-8)


def test_adam_goes_on_linearly_at_the_share_that_its_memory_leaves():
    rate = 1e-3
    path = flows.adam_path(flows.policy_gradient([1, 0]), [0, 0], 12000, rate)
    s = path[:, 0] - path[:, 1]
    assert flows.adam_speed(rate) == pytest.approx(0.2361, abs=1e-4)
    assert (s[-1] - s[-2001]) / (2 * rate * 2000) == pytest.approx(flows.adam_speed(rate), rel=0.1)
    assert s[1] == pytest.approx(2 * rate)


def test_a_group_of_eight_sets_the_late_speed():
    """Late, n = 7 of 8 are right in all mixed groups: the gain is 7 / sqrt(8)."""
    field = flows.policy_gradient([1, 0], gain=lambda rate: gain(VARIANTS["standardised"], rate, 8))
    late = flows.policy_gradient([7 / np.sqrt(8), 0])
    np.testing.assert_allclose(field(np.array([14.0, 0])), late(np.array([14.0, 0])), rtol=1e-4)


def test_a_flow_that_blows_up_is_refused():
    with pytest.raises(ArithmeticError, match="could not be integrated"), np.errstate(all="ignore"):
        flows.integrate(lambda z: z**2, [1.0, 1.0], [0, 2])
