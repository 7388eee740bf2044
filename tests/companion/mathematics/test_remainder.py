"""The remainder after the first order: its exact form, a bound that no attack breaks, and trust radii."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from companion.mathematics.remainder import (
    remainder,
    remainder_bound,
    simple_remainder_bound,
    trust_radius,
    worst_remainder,
)
from companion.mathematics.verification import random_policies
from entropy_dynamics import theory

ALPHAS = [0.01, 0.1, 1.0, -0.01, -0.1, -1.0]


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 5.0])
def test_remainder_is_what_the_first_order_leaves(scale):
    logits, _ = random_policies(20, 12, seed=0)
    delta = scale * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = theory.exact_change(logits, delta) - theory.first_order_change(logits, delta)
    torch.testing.assert_close(remainder(logits, delta), expected, rtol=1e-6, atol=1e-14)


def test_remainder_by_hand():
    # p = (1/2, 1/2) becomes q = (3/4, 1/4): S = 0, so that all of the change is -KL(q || p).
    logits, delta = torch.zeros(2, dtype=torch.float64), torch.tensor([math.log(3), 0.0], dtype=torch.float64)
    assert remainder(logits, delta).item() == pytest.approx(-(0.75 * math.log(1.5) + 0.25 * math.log(0.5)))


def test_masked_tokens_add_nothing():
    logits, k = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64), torch.tensor(0)
    wider = torch.cat([logits, torch.tensor([-torch.inf], dtype=torch.float64)])
    small, large = (remainder(z, theory.grpo_logit_update(z, k, 0.5)) for z in (logits, wider))
    assert large.item() == pytest.approx(small.item())


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("vocabulary", [2, 3, 5, 10])
def test_no_ascent_on_the_logits_breaks_the_bound(alpha, vocabulary):
    """Quasi-Newton ascent of |R| over all logits, from many starts."""
    bound = remainder_bound(alpha, vocabulary)
    token = torch.tensor(0)

    def value_and_gradient(z: np.ndarray, sign: float) -> tuple[float, np.ndarray]:
        logits = torch.tensor(z, requires_grad=True)
        value = sign * remainder(logits, theory.grpo_logit_update(logits, token, alpha))
        value.backward()
        return value.item(), logits.grad.numpy()

    rng = np.random.default_rng(0)
    worst = 0.0
    for start in rng.normal(size=(8, vocabulary)) * rng.uniform(0.5, 4, size=(8, 1)):
        for sign in (1.0, -1.0):
            found = minimize(value_and_gradient, start, args=(sign,), jac=True, bounds=[(-30, 30)] * vocabulary)
            worst = max(worst, -found.fun)
    assert 0 < worst <= bound


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("vocabulary", [4, 19, 1000, 49_152, 151_936])
def test_no_policy_of_few_groups_breaks_the_bound_and_some_come_near_it(alpha, vocabulary):
    worst = abs(worst_remainder(alpha, vocabulary).remainder)
    opposite = abs(worst_remainder(-alpha, vocabulary).remainder)
    bound = max(remainder_bound(alpha, vocabulary), remainder_bound(-alpha, vocabulary))
    assert worst <= remainder_bound(alpha, vocabulary)
    assert max(worst, opposite) >= bound / 4


@pytest.mark.parametrize("vocabulary", [2, 50, 1000])
def test_random_policies_keep_the_bound_with_every_token(vocabulary):
    logits, _ = random_policies(200, vocabulary, seed=3)
    for alpha in (*ALPHAS, 3.0):
        for token in (logits.argmax(-1), logits.argmin(-1), torch.zeros(200, dtype=torch.long)):
            r = remainder(logits, theory.grpo_logit_update(logits, token, alpha))
            assert r.abs().max() <= remainder_bound(alpha, vocabulary)


def test_the_adversary_reports_a_policy_that_has_its_remainder():
    found = worst_remainder(0.5, 10)
    p = torch.tensor([found.probability, *([0.0] * 9)], dtype=torch.float64)
    p[1], rest = found.largest_other, 1 - found.probability - found.largest_other
    p[2:] = rest / 8
    r = remainder(p.log(), theory.grpo_logit_update(p.log(), torch.tensor(0), 0.5))
    assert found.remainder == pytest.approx(r.item(), rel=1e-3)  # the rest is even where |R| is largest


def test_the_bound_grows_with_the_step_as_its_square_or_faster_and_with_the_vocabulary():
    for sign in (1, -1):
        ratio = [remainder_bound(sign * a, 1000) / a**2 for a in (1e-3, 0.01, 0.1, 0.3, 1.0)]
        assert ratio == sorted(ratio)
    bounds = [remainder_bound(0.1, v) for v in (2, 3, 10, 1000, 10**6)]
    assert bounds == sorted(bounds)
    with pytest.raises(ValueError, match="at least 2 tokens"):
        remainder_bound(0.1, 1)
    with pytest.raises(ValueError, match="at least 4 tokens"):
        worst_remainder(0.1, 3)


def test_the_simple_bound_is_above_the_sharp_one():
    """The sharp bound is a maximum of functions linear in log(V - 1), so convex in it, and largest at |alpha| = 1."""
    for vocabulary in (2, 3, 4, 5, 7, 10, 20, 50, 100, 10**3, 10**4, 10**5, 10**6, 10**7):
        for alpha in (1.0, -1.0, 0.3, 0.01):
            assert remainder_bound(alpha, vocabulary) <= simple_remainder_bound(alpha, vocabulary)


def test_trust_radius_of_a_coin_by_hand():
    # Two tokens, p_k = x > 1/2: rewards lower entropy throughout. A penalty raises it until the policy is mirrored:
    # the step alpha moves the log-odds z by 2 (1 - x) alpha, so that happens at alpha = -z / (1 - x).
    x = 0.8
    logits = torch.tensor([x, 1 - x], dtype=torch.float64).log()
    expected = math.log(x / (1 - x)) / (1 - x)
    assert trust_radius(logits, torch.tensor(0)).item() == pytest.approx(expected, rel=1e-3)


def test_trust_radius_is_the_first_failure_of_the_sign():
    logits, tokens = random_policies(60, 20, seed=5)
    radius = trust_radius(logits, tokens)
    d = -theory.first_order_change(logits, theory.grpo_logit_update(logits, tokens, 1.0))
    clear = d.abs() > 1e-6
    finite = radius.isfinite() & clear
    assert finite.sum() > 20
    for share, right in ((0.3, True), (0.9, True), (0.99, True)):
        for sign in (1.0, -1.0):
            alpha = sign * share * radius.clamp(max=100)
            change = theory.exact_change(logits, theory.grpo_logit_update(logits, tokens, alpha))
            assert ((-alpha * d * change > 0) == right)[clear].all()
    beyond = [
        (-a * d * theory.exact_change(logits, theory.grpo_logit_update(logits, tokens, a)) <= 0)
        for a in (1.01 * radius.clamp(max=100), -1.01 * radius.clamp(max=100))
    ]
    assert (beyond[0] | beyond[1])[finite].all()


def test_the_bound_certifies_a_radius():
    logits, tokens = random_policies(100, 30, seed=6)
    d = theory.first_order_change(logits, theory.grpo_logit_update(logits, tokens, 1.0)).abs()
    assert (trust_radius(logits, tokens) >= (d / (0.5 + 0.12 * math.log(30))).clamp(max=1)).all()
