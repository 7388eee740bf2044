"""The remainder after the first order: its exact form, a bound that no attack breaks, and trust radii."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from companion.mathematics.checks import proof_cases
from companion.mathematics.remainder import (
    _Line,
    remainder,
    remainder_bound,
    sharpest_remainder,
    span,
    steps_of_the_proof,
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


@pytest.mark.parametrize("alpha", [1000.0, -1000.0, 30.0])
def test_remainder_is_finite_and_right_at_huge_steps(alpha):
    logits = torch.tensor([[2.0, 2.0, -5.0], [0.0, -800.0, -2.0], [0.0, -torch.inf, 1.0]], dtype=torch.float64)
    for k in range(3):
        delta = theory.grpo_logit_update(logits, torch.full((3,), k), alpha)
        expected = theory.exact_change(logits, delta) - theory.first_order_change(logits, delta)
        torch.testing.assert_close(remainder(logits, delta), expected, rtol=1e-9, atol=1e-9)


def test_span_by_hand():
    p = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    step = theory.grpo_logit_update(p.log(), torch.tensor(1), -2.0)
    assert span(p.log(), step).item() == pytest.approx(2 * (1 - 0.3 + 0.5))
    assert span(p.log(), torch.tensor([0.0, 1.0, 0.5, 9.0])).item() == 1  # the masked token does not count


@pytest.mark.parametrize("size", [2, 3, 4, 30, 500])
def test_every_step_of_the_proof(size):
    cases = proof_cases(size, states=200, seed=0)
    tied = torch.tensor([[0.0] * size, [30.0] + [0.0] * (size - 1), [-30.0] + [0.0] * (size - 1)], dtype=torch.float64)
    first = torch.tensor([[1.0] + [0.0] * (size - 1)], dtype=torch.float64).expand_as(tied)
    for logits, direction in [*cases, (tied, first), (tied, -first)]:
        for name, (left, right) in steps_of_the_proof(logits, direction).items():
            assert (left <= right + 1e-14).all(), name


def test_the_steps_of_the_proof_leave_masked_tokens_out():
    (logits, direction), *_ = proof_cases(6, states=50, seed=1)
    masked = torch.cat([logits, torch.full((50, 2), -torch.inf, dtype=torch.float64)], -1)
    wider = torch.cat([direction, torch.tensor([[7.0, -7.0]], dtype=torch.float64).expand(50, 2)], -1)
    narrow, wide = steps_of_the_proof(logits, direction), steps_of_the_proof(masked, wider)
    for name in narrow:
        torch.testing.assert_close(wide[name][0], narrow[name][0])
        assert (wide[name][1] >= narrow[name][1] - 1e-14).all()


def test_the_second_derivative_is_what_the_proof_says():
    (logits, direction), *_ = proof_cases(7, states=20, seed=2)
    steps = steps_of_the_proof(logits, direction)
    mean, covariance = steps["mean f <= 1/4"][0], _covariance(logits, direction)
    second = 2 * theory.second_order_change(logits, direction)
    torch.testing.assert_close(-(span(logits, direction) ** 2) * (mean + covariance), second)


def _covariance(logits, direction):
    """Cov_q(log q, (x - E x)^2), x being `direction` over its span."""
    q, x = logits.softmax(-1), direction / span(logits, direction).unsqueeze(-1)
    squares = (x - (q * x).sum(-1, keepdim=True)) ** 2
    return (q * q.log() * squares).sum(-1) - (q * q.log()).sum(-1) * (q * squares).sum(-1)


def test_the_contrast_is_no_larger_for_any_three_masses_and_positions():
    generator = torch.Generator().manual_seed(0)
    q = torch.rand(200_000, 3, generator=generator, dtype=torch.float64).log().neg()
    x = torch.rand(200_000, 3, generator=generator, dtype=torch.float64)
    left, right = steps_of_the_proof(q.log(), x)["tau <= 1 / (6 sqrt 3)"]
    assert 0.97 < (left / right).max() <= 1


def test_the_constant_of_log_v_is_the_best():
    for digits, share in ((5, 0.79), (30, 0.95), (300, 0.99)):
        bound = remainder_bound(1e-3, 10**digits + 1, span=1.0)
        assert share < abs(sharpest_remainder(1e-3, digits * math.log(10))) / bound <= 1
    logits = torch.zeros(1000, dtype=torch.float64)
    logits[0] = math.log(999) + math.log((3 - 3**0.5) / (3 + 3**0.5))
    push = theory.single_logit_update(logits, torch.tensor(0), -0.5)
    assert sharpest_remainder(-0.5, math.log(999)) == pytest.approx(remainder(logits, push).item())


@pytest.mark.parametrize("alpha", [*ALPHAS, 10.0, -10.0])
@pytest.mark.parametrize("vocabulary", [2, 3, 5, 10])
def test_no_ascent_on_the_logits_breaks_the_bound(alpha, vocabulary):
    """Quasi-Newton ascent of the share of the bound that |R| reaches, over all logits, from many starts."""
    token = torch.tensor(0)

    def value_and_gradient(z: np.ndarray, sign: float) -> tuple[float, np.ndarray]:
        logits = torch.tensor(z, requires_grad=True)
        step = theory.grpo_logit_update(logits, token, alpha)
        value = sign * remainder(logits, step) / remainder_bound(1.0, vocabulary, span=span(logits, step).detach())
        value.backward()
        return value.item(), logits.grad.numpy()

    rng = np.random.default_rng(0)
    worst = 0.0
    for start in rng.normal(size=(8, vocabulary)) * rng.uniform(0.5, 4, size=(8, 1)):
        for sign in (1.0, -1.0):
            found = minimize(value_and_gradient, start, args=(sign,), jac=True, bounds=[(-30, 30)] * vocabulary)
            worst = max(worst, -found.fun)
    assert 0.01 < worst <= 1


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("vocabulary", [4, 19, 1000, 49_152, 151_936])
def test_no_policy_of_few_groups_breaks_the_bound_and_some_come_near_it(alpha, vocabulary):
    found = worst_remainder(alpha, vocabulary)
    assert abs(found.remainder) <= remainder_bound(alpha, vocabulary, span=found.span)
    if alpha > 0:
        assert abs(found.remainder) >= 0.4 * remainder_bound(alpha, vocabulary, span=found.span)


@pytest.mark.parametrize("vocabulary", [2, 50, 1000])
def test_random_policies_keep_the_bound_with_every_token(vocabulary):
    logits, _ = random_policies(200, vocabulary, seed=3)
    for alpha in (*ALPHAS, 3.0, 1000.0):
        for token in (logits.argmax(-1), logits.argmin(-1), torch.zeros(200, dtype=torch.long)):
            step = theory.grpo_logit_update(logits, token, alpha)
            bound = remainder_bound(1.0, vocabulary, span=span(logits, step))
            assert (remainder(logits, step).abs() <= bound + 1e-12 * abs(alpha)).all()
            assert (bound <= remainder_bound(alpha, vocabulary)).all()


def test_the_adversary_reports_a_policy_that_has_its_remainder():
    found = worst_remainder(0.5, 10)
    p = torch.tensor([found.probability, *([0.0] * 9)], dtype=torch.float64)
    p[1], rest = found.largest_other, 1 - found.probability - found.largest_other
    p[2:] = rest / 8
    r = remainder(p.log(), theory.grpo_logit_update(p.log(), torch.tensor(0), 0.5))
    assert found.remainder == pytest.approx(r.item(), rel=1e-3)  # the rest is even where |R| is largest


def test_the_bound_by_hand():
    constant = 1 / 8 + 1 / (8 * math.e)
    assert remainder_bound(1.0, 2, span=1.0) == pytest.approx(constant)
    assert remainder_bound(-0.1, 2) == pytest.approx(0.04 * constant)
    assert remainder_bound(0.1, 1001, span=1.1) == pytest.approx(0.0121 * (constant + math.log(1000) / (12 * 3**0.5)))
    spans = torch.tensor([0.0, 1.0])
    assert remainder_bound(2.0, 2, span=spans).tolist() == pytest.approx([0, 4 * constant])
    with pytest.raises(ValueError, match="at least 2 tokens"):
        remainder_bound(0.1, 1)
    with pytest.raises(ValueError, match="span is -1"):
        remainder_bound(0.1, 2, span=-1.0)
    with pytest.raises(ValueError, match="at least 4 tokens"):
        worst_remainder(0.1, 3)


def test_the_bound_for_practice():
    for vocabulary in (2, 3, 10, 1000, 10**6, 10**50):
        assert remainder_bound(1.0, vocabulary) <= 0.7 + 0.2 * math.log(vocabulary)


@pytest.mark.parametrize("alpha", [1e-3, -0.01, 0.5, -3.0, 30.0, -100.0])
def test_a_line_has_the_change_and_the_slope_of_theory(alpha):
    logits, tokens = random_policies(50, 12, seed=7)
    logits[::5, 3] = -torch.inf
    logits[10:20] *= 4
    tokens[::5] = logits[::5].argmax(-1)
    unit = theory.grpo_logit_update(logits, tokens, 1.0)
    some = torch.arange(1, 50, 2)
    change, slope = _Line(logits, tokens).at(some, torch.full((len(some),), alpha, dtype=torch.float64))
    expected = theory.exact_change(logits, alpha * unit)[some]
    torch.testing.assert_close(change, expected, rtol=1e-11, atol=1e-15 * max(1, abs(alpha)))
    expected = theory.first_order_change(logits + alpha * unit, unit)[some]
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-13)


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


def test_trust_radius_of_single_precision_is_that_of_double():
    logits, tokens = random_policies(60, 20, seed=5)
    assert torch.equal(trust_radius(logits.float(), tokens), trust_radius(logits.float().double(), tokens))


@pytest.mark.parametrize(("smallest", "largest"), [(1e-3, 351.0), (0.0, 1.0), (2.0, 1.0)])
def test_a_search_beyond_what_can_be_exponentiated_is_refused(smallest, largest):
    with pytest.raises(ValueError, match=f"smallest is {smallest} and largest {largest}"):
        trust_radius(torch.zeros(3, dtype=torch.float64), torch.tensor(0), smallest=smallest, largest=largest)


def test_a_narrow_window_of_wrong_signs_is_found():
    # The sign is wrong from 5.894 on and right again at the next point of the scan, 6.8.
    logits = torch.tensor([2.30472767419009, 4.194583824753764, -7.912426039760313], dtype=torch.float64)
    assert trust_radius(logits, torch.tensor(2)).item() == pytest.approx(5.8938, rel=1e-3)


def test_no_sign_is_wrong_below_the_radius_on_a_fine_grid():
    for size in (3, 4, 6):
        logits, _ = random_policies(300, size, seed=8)
        tokens = torch.arange(300) % size
        radius = trust_radius(logits, tokens)
        unit = theory.grpo_logit_update(logits, tokens, 1.0)
        first = theory.first_order_change(logits, unit)
        for alpha in torch.logspace(-3, 2, 400, dtype=torch.float64):
            for step in (alpha, -alpha):
                right = theory.exact_change(logits, step * unit) * first * step > 0
                assert (right | (alpha > 0.998 * radius) | (first.abs() < 1e-9)).all()


def test_the_bound_certifies_a_radius():
    logits, tokens = random_policies(100, 30, seed=6)
    unit = theory.grpo_logit_update(logits, tokens, 1.0)
    certified = theory.first_order_change(logits, unit).abs() / remainder_bound(1.0, 30, span=span(logits, unit))
    assert (trust_radius(logits, tokens) >= certified.clamp(max=100)).all()
