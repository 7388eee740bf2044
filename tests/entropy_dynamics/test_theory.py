import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from entropy_dynamics import theory

LOG_2 = math.log(2)


def random_policies(states, size, *, seed):
    """Float64 logits from flat to peaked, and one on-policy token of each state."""
    generator = torch.Generator().manual_seed(seed)
    spread = 0.5 + 5.5 * torch.rand(states, 1, generator=generator, dtype=torch.float64)
    logits = spread * torch.randn(states, size, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)


@st.composite
def float64_logits(draw, max_size=40):
    """One state: logits of any spread up to +-30, some of them masked."""
    size = draw(st.integers(2, max_size))
    values = draw(st.lists(st.floats(-30, 30), min_size=size, max_size=size))
    masked = draw(st.lists(st.booleans(), min_size=size - 1, max_size=size - 1))
    z = torch.tensor(values, dtype=torch.float64)
    z[1:][torch.tensor(masked) & (torch.arange(size - 1) % 3 == 0)] = -torch.inf
    return z


def brute_force_entropy(z):
    p = [math.exp(x - max(z)) for x in z]
    p = [x / sum(p) for x in p]
    return -sum(x * math.log(x) for x in p if x > 0)


def test_hand_computed_policy():
    z = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
    assert_close(theory.entropy(z).item(), 1.5 * LOG_2)
    assert_close(theory.discriminator(z), LOG_2 * torch.tensor([1 / 4, -1 / 8, -1 / 8], dtype=torch.float64))
    assert_close(theory.expected_discriminator(z).item(), LOG_2 / 16)
    assert_close(theory.sign_boundary(z).item(), 2**-1.5)
    delta = theory.grpo_logit_update(z, torch.tensor(1), 0.1)
    assert_close(delta, torch.tensor([-0.05, 0.075, -0.025], dtype=torch.float64))
    assert_close(theory.first_order_change(z, delta).item(), 0.1 * LOG_2 * 3 / 16)
    dp = theory.probability_change(z, theory.single_logit_update(z, torch.tensor(0), 0.1))
    assert_close(dp, torch.tensor([0.025, -0.0125, -0.0125], dtype=torch.float64))
    assert theory.disagreement_band(z).tolist() == [False, False, False]


def test_the_band_is_where_the_theorems_disagree():
    # One token takes half the mass; the second of the two middle ones has 0 < S < E_p[S].
    z, _ = random_policies(50, 20, seed=1)
    band = theory.disagreement_band(z)
    assert 20 < band.sum() < 500
    for row in range(len(z)):
        for token in range(20):
            k = torch.tensor(token)
            alone = theory.first_order_change(z[row], theory.single_logit_update(z[row], k, 1.0))
            coupled = theory.first_order_change(z[row], theory.grpo_logit_update(z[row], k, 1.0))
            assert (alone * coupled < 0) == band[row, token]
            assert not (alone > 0 > coupled)  # the baseline only ever turns falls into rises


@given(float64_logits())
def test_entropy_against_brute_force_and_its_range(z):
    h = theory.entropy(z).item()
    assert_close(h, brute_force_entropy(z.tolist()), rtol=1e-12, atol=1e-12)
    assert -1e-15 <= h <= math.log(len(z)) + 1e-12


@given(float64_logits(), st.floats(-50, 50))
def test_shift_of_all_logits_changes_nothing(z, shift):
    assert_close(theory.discriminator(z + shift), theory.discriminator(z), rtol=1e-9, atol=1e-12)
    assert theory.discriminator(z).sum().abs() < 1e-12


@given(float64_logits())
def test_bounds_of_the_discriminator(z):
    s, h = theory.discriminator(z), theory.entropy(z)
    assert (s >= theory.lowest_discriminator(h) - 1e-12).all()
    assert s.min() >= -0.22388
    assert theory.expected_discriminator(z) >= -1e-14
    p = z.softmax(-1)
    clear = ((p - theory.sign_boundary(z)).abs() > 1e-9) & (p > 1e-9)
    assert (torch.sign(s) == torch.sign(p - theory.sign_boundary(z)))[clear].all()


@pytest.mark.parametrize("size", [2, 3, 17, 1000, 49152])
def test_discriminator_is_minus_the_entropy_gradient(size):
    z, _ = random_policies(4, size, seed=size)
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(-(z.softmax(-1) * z.log_softmax(-1)).sum(), z)
    assert_close(theory.discriminator(z.detach()), -gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("size", [2, 5, 30])
def test_hessian_is_autograd_hessian(size):
    z, k = random_policies(3, size, seed=size)
    expected = torch.stack(
        [torch.autograd.functional.hessian(lambda x: -(x.softmax(-1) * x.log_softmax(-1)).sum(), row) for row in z]
    )
    assert_close(theory.entropy_hessian(z), expected, rtol=1e-9, atol=1e-13)
    generator = torch.Generator().manual_seed(0)
    for delta in (
        torch.randn(z.shape, generator=generator, dtype=torch.float64),
        theory.grpo_logit_update(z, k, 0.3),
        theory.single_logit_update(z, k, -0.3),
    ):
        quadratic = 0.5 * torch.einsum("si,sij,sj->s", delta, expected, delta)
        assert_close(theory.second_order_change(z, delta), quadratic, rtol=1e-9, atol=1e-13)
    assert_close(
        theory.grpo_second_order_change(z, k, 0.3), theory.second_order_change(z, theory.grpo_logit_update(z, k, 0.3))
    )
    assert_close(
        theory.single_logit_second_order_change(z, k, -0.3),
        theory.second_order_change(z, theory.single_logit_update(z, k, -0.3)),
    )


def test_probability_change_is_the_jacobian():
    z, _ = random_policies(1, 12, seed=0)
    jacobian = torch.autograd.functional.jacobian(lambda x: x.softmax(-1), z[0])
    delta = torch.linspace(-1, 1, 12, dtype=torch.float64)
    assert_close(theory.probability_change(z[0], delta), jacobian @ delta)


def test_grpo_update_is_the_surrogate_gradient():
    z, k = random_policies(6, 30, seed=3)
    old, _ = random_policies(6, 30, seed=4)
    advantage = torch.tensor([1.0, -2, 0.5, 3, -0.1, 0], dtype=torch.float64)
    z.requires_grad_()
    ratio = (z.log_softmax(-1) - old.log_softmax(-1)).gather(-1, k[:, None])[:, 0].exp()
    (gradient,) = torch.autograd.grad((ratio * advantage).sum(), z)
    assert_close(theory.grpo_logit_update(z.detach(), k, (ratio * advantage).detach()), gradient)


@given(float64_logits(), st.integers(0, 2**31))
def test_covariance_form_is_the_first_order_change(z, seed):
    delta = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert_close(theory.covariance_change(z, delta), theory.first_order_change(z, delta), rtol=1e-9, atol=1e-13)
    p, log_p = theory.log_policy(z)
    covariance = (p * p * log_p).sum() - (p * p).sum() * (p * log_p).sum()
    assert_close(theory.expected_discriminator(z), covariance, rtol=1e-9, atol=1e-13)


def test_entropy_bonus_follows_its_gradient():
    z, _ = random_policies(5, 40, seed=5)
    step = -1e-5 * theory.discriminator(z)
    assert_close(theory.entropy_bonus_change(z, 1e-5), theory.exact_change(z, step), rtol=1e-4, atol=0)


@given(float64_logits(), st.integers(0, 2**31), st.floats(-6, 1.5))
def test_exact_change_is_the_difference_of_two_entropies(z, seed, log_size):
    delta = 10**log_size * torch.randn(z.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    naive = theory.entropy(z + delta) - theory.entropy(z)
    assert_close(theory.exact_change(z, delta), naive, rtol=1e-9, atol=1e-13)


def test_exact_change_keeps_its_digits_where_the_difference_loses_them():
    z, k = random_policies(20, 50, seed=6)
    for alpha in (1e-6, 1e-9, 1e-12):
        delta = theory.grpo_logit_update(z, k, alpha)
        two_orders = theory.first_order_change(z, delta) + theory.second_order_change(z, delta)
        assert_close(theory.exact_change(z, delta), two_orders, rtol=1e-6, atol=1e-15 * alpha)


def test_exact_change_keeps_its_digits_where_the_first_order_is_zero():
    z, k = torch.zeros(2, dtype=torch.float64), torch.tensor(0)
    for alpha in (1e-12, 1e-9, 1e-6):
        change = theory.exact_change(z, theory.grpo_logit_update(z, k, alpha)).item()
        assert change == pytest.approx(-(alpha**2) / 8, rel=1e-11)


def test_psi_keeps_its_digits():
    u = torch.tensor([1e-12, -1e-6, 9e-4, 1.1e-3, -0.5, 3.0], dtype=torch.float64)
    series = [sum(x**n / math.factorial(n) for n in range(40, 1, -1)) for x in u.tolist()]
    assert_close(theory.psi(u), torch.tensor(series, dtype=torch.float64), rtol=1e-12, atol=0)


@given(float64_logits(), st.integers(0, 2**31))
def test_second_order_is_minus_half_the_spread(z, seed):
    delta = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    p, s = z.softmax(-1), theory.discriminator(z)
    p_delta, s_delta = (p * delta).sum(), (s * delta).sum()
    quadratic = 0.5 * (-((s + p) * delta**2).sum() + 2 * p_delta * s_delta + p_delta**2)
    assert_close(theory.second_order_change(z, delta), quadratic, rtol=1e-9, atol=1e-12)


def test_sign_rule_radius_by_hand():
    z = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
    gap = 0.5 * math.log(2)  # H = 1.5 log 2, so H + log p is log 2 / 2, -log 2 / 2, -log 2 / 2
    assert theory.sign_rule_radius(z).tolist() == pytest.approx([gap] * 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_baseline_is_never_negative_and_the_band_of_a_uniform_policy_is_empty(dtype):
    for size in (2, 7, 49152):
        z = torch.full((size,), 0.3, dtype=dtype)
        assert 0 <= theory.expected_discriminator(z) < 1e-12
        assert not theory.disagreement_band(z).any()
        nearly = z + 1e-3 * torch.randn(size, dtype=dtype, generator=torch.Generator().manual_seed(0))
        p = nearly.double().softmax(-1)
        covariance = (p * (p - (p * p).sum()) * (p.log() - (p * p.log()).sum())).sum()
        assert_close(theory.expected_discriminator(nearly).double(), covariance, rtol=1e-3, atol=0)


def test_sign_rule_holds_within_its_radius():
    z, _ = random_policies(40, 15, seed=7)
    s, radius = theory.discriminator(z), theory.sign_rule_radius(z)
    outside = 0
    for token in range(15):
        k = torch.full((40,), token)
        steps = [torch.full((40,), eps, dtype=torch.float64) for eps in (-5.0, -1.0, -0.1, 0.1, 1.0, 5.0)]
        for eps in (*steps, radius[:, token], -radius[:, token]):
            exact = theory.exact_change(z, theory.single_logit_update(z, k, eps))
            predicted = -eps * s[:, token]
            wrong = torch.sign(exact) != torch.sign(predicted)
            assert not wrong[predicted < 0].any()
            assert not wrong[eps.abs() <= radius[:, token]].any()
            outside += wrong.sum()
    assert outside > 50  # beyond the radius the rule does fail


@pytest.mark.parametrize(("others", "gap"), [(2, 60.0), (50, 400.0), (1000, 600.0)])
def test_no_larger_multiple_of_the_radius_would_do(others, gap):
    z = torch.zeros(others + 1, dtype=torch.float64)
    z[0] = -gap
    radius = theory.sign_rule_radius(z)[0]
    changes = [
        theory.exact_change(z, theory.single_logit_update(z, torch.tensor(0), share * radius)) for share in (1.0, 1.05)
    ]
    assert changes[0] > 0 > changes[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_leading_shape_are_kept(dtype):
    z = torch.randn(2, 3, 7, dtype=dtype, generator=torch.Generator().manual_seed(0))
    k = torch.zeros(2, 3, dtype=torch.int32)
    assert theory.entropy(z).shape == (2, 3)
    assert theory.discriminator(z).dtype == dtype
    for update in (theory.grpo_logit_update, theory.single_logit_update):
        delta = update(z, k, 0.1)
        assert (delta.shape, delta.dtype) == (z.shape, dtype)
        assert theory.exact_change(z, delta).dtype == dtype
    assert_close(theory.entropy(z)[1, 2], theory.entropy(z[1, 2]))
    per_state = theory.grpo_logit_update(z, k, torch.full((2, 3), 0.1, dtype=torch.float64))
    assert per_state.dtype == dtype


def test_extreme_logits_are_finite_and_right():
    inf = torch.inf
    z = torch.tensor([[0, -inf, -inf], [1e4, 0, -1e4], [5, 5, 5], [-1e4, -1e4, -inf]], dtype=torch.float64)
    assert_close(theory.entropy(z), torch.tensor([0, 0, math.log(3), math.log(2)], dtype=torch.float64))
    assert_close(theory.discriminator(z), torch.zeros_like(z))
    assert_close(theory.expected_discriminator(z), torch.zeros(4, dtype=torch.float64))
    delta = torch.tensor([0.5, -0.5, 0.2], dtype=torch.float64).expand_as(z)
    naive = theory.entropy(z + delta) - theory.entropy(z)
    assert_close(theory.exact_change(z, delta), naive)
    assert theory.second_order_change(z, delta).isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinite_logits_are_refused(bad):
    z = torch.tensor([0.0, bad, 1.0])
    for function in (theory.entropy, theory.discriminator, theory.expected_discriminator):
        with pytest.raises(ValueError, match="largest logit"):
            function(z)
    with pytest.raises(ValueError, match="largest logit"):
        theory.exact_change(torch.zeros(3), z)


def test_unusable_input_is_refused_by_name():
    z = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="whole vocabulary"):
        theory.entropy(torch.full((3,), -torch.inf))
    with pytest.raises(ValueError, match=r"torch\.int64"):
        theory.entropy(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="vocabulary"):
        theory.entropy(torch.zeros(2, 0))
    with pytest.raises(ValueError, match=r"token 3 is outside the vocabulary 0\.\.2"):
        theory.grpo_logit_update(z, torch.tensor([0, 3]), 0.1)
    with pytest.raises(ValueError, match=r"token -100 .*such as tokens.clamp\(min=0\), and leave it out by the mask"):
        theory.grpo_logit_update(z, torch.tensor([0, -100]), 0.1)
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(2,\)"):
        theory.single_logit_update(z, torch.tensor([0, 1, 2]), 0.1)
    with pytest.raises(ValueError, match="integer"):
        theory.single_logit_update(z, torch.tensor([0.0, 1.0]), 0.1)
