import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from entropy_dynamics import theory, vocabulary_sums
from entropy_dynamics.token_statistics import TokenStatistics, baseline_of, token_statistics


def naive(logits, tokens, temperature=1.0):
    """Straight from the definitions, one float64 softmax and nothing shared with the code under test."""
    z = logits.double() / temperature
    p = torch.exp(z - z.logsumexp(-1, keepdim=True))
    plogp = torch.where(p > 0, p * torch.log(p.clamp(min=1e-320)), 0.0)
    h = -plogp.sum(-1)
    s = p * h.unsqueeze(-1) + plogp
    pick = tokens.long().unsqueeze(-1)
    log_prob = (z - z.logsumexp(-1, keepdim=True)).gather(-1, pick).squeeze(-1)
    return TokenStatistics(log_prob, h, s.gather(-1, pick).squeeze(-1), (p * s).sum(-1))


def sample(shape, size, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, size, generator=generator)
    return logits.to(dtype), torch.randint(size, shape, generator=generator)


def assert_matches(actual, expected, tolerance):
    for name, a, b in zip(TokenStatistics._fields, actual[:4], expected):
        error = ((a.double() - b).abs() / (1 + b.abs())).max().item() if a.numel() else 0.0
        assert error <= tolerance, f"{name}: error {error}"


@pytest.mark.parametrize("chunk", [1, 40, 1000, 2**20])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_against_the_naive_reference(dtype, shape, temperature, chunk, monkeypatch):
    monkeypatch.setattr(vocabulary_sums, "CHUNK_ELEMENTS", chunk)
    logits, tokens = sample(shape, 37, dtype)
    actual = token_statistics(logits, tokens, temperature=temperature)
    assert_matches(actual, naive(logits, tokens, temperature), 1e-13 if dtype == torch.float64 else 1e-5)
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert all(x.shape == shape and x.dtype == wanted for x in actual[:4])


@pytest.mark.parametrize("size", [1, 2, 19, 1000, 49152])
def test_vocabulary_sizes(size):
    logits, tokens = sample((6,), size)
    assert_matches(token_statistics(logits, tokens), naive(logits, tokens), 1e-5)


def test_centred_is_theorem_3_3():
    logits, tokens = sample((8,), 50, torch.float64)
    delta = theory.grpo_logit_update(logits, tokens, 0.01)
    assert_close(-0.01 * token_statistics(logits, tokens).centred, theory.first_order_change(logits, delta))


@given(st.integers(0, 2**31), st.integers(2, 30))
def test_policy_expectation_of_the_discriminator_is_the_baseline(seed, size):
    logits, _ = sample((), size, torch.float64, seed)
    every = token_statistics(logits.expand(size, size), torch.arange(size))
    p = every.log_prob.exp()
    assert_close((p * every.discriminator).sum(), every.baseline[0], rtol=1e-9, atol=1e-14)
    assert_close(every.discriminator.sum().item(), 0.0, atol=1e-13, rtol=0)
    assert_close((p * every.centred).sum().item(), 0.0, atol=1e-14, rtol=0)


@pytest.mark.parametrize("chunk", [1, 40, 2**20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradient_is_that_of_log_softmax(dtype, chunk, monkeypatch):
    monkeypatch.setattr(vocabulary_sums, "CHUNK_ELEMENTS", chunk)
    logits, tokens = sample((3, 4), 37, dtype)
    weights = torch.linspace(-1, 1, 12).view(3, 4)
    logits.requires_grad_()
    actual = token_statistics(logits, tokens, temperature=0.7)
    (gradient,) = torch.autograd.grad((actual.log_prob * weights).sum(), logits)
    reference = logits.detach().double().requires_grad_()
    log_prob = (reference / 0.7).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    (expected,) = torch.autograd.grad((log_prob * weights).sum(), reference)
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    assert gradient.dtype == dtype
    assert_close(gradient.double(), expected, rtol=tolerance, atol=tolerance)


def test_only_log_prob_carries_gradient():
    logits, tokens = sample((4,), 10)
    statistics = token_statistics(logits.requires_grad_(), tokens)
    assert [x.requires_grad for x in statistics[:4]] == [True, False, False, False]
    assert not statistics.centred.requires_grad


def test_views_are_read_in_place_and_match_their_copies():
    logits, tokens = sample((3, 6), 20)
    for view, k in (
        (logits[:, :-1], tokens[:, 1:]),
        (logits.transpose(0, 1), tokens.T),
        (logits[..., ::2], tokens // 2),
    ):
        assert not view.is_contiguous()
        assert_matches(token_statistics(view, k), naive(view, k), 1e-5)


def test_masked_and_extreme_logits():
    inf = torch.inf
    logits = torch.tensor([[0.0, -inf, 0.0], [1e4, 0.0, -1e4], [0.0, 0.0, 0.0], [-inf, -inf, 3.0]])
    statistics = token_statistics(logits, torch.tensor([0, 0, 1, 2]))
    assert_close(statistics.entropy, torch.tensor([2.0, 1.0, 3.0, 1.0]).log())
    assert_close(statistics.discriminator, torch.zeros(4))
    assert_close(statistics.baseline, torch.zeros(4))
    massless = token_statistics(logits, torch.tensor([1, 2, 1, 0]))
    assert massless.log_prob[0] == -inf and massless.log_prob[1] == -2e4
    assert massless.discriminator.isfinite().all() and massless.discriminator[0] == 0


def test_empty_batch():
    statistics = token_statistics(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))
    assert all(x.shape == (0,) for x in statistics[:4])


def test_bad_input_is_refused_by_name():
    logits, tokens = sample((4,), 5)
    for bad in (torch.nan, torch.inf):
        broken = logits.clone()
        broken[2, 1] = bad
        with pytest.raises(ValueError, match="largest logit"):
            token_statistics(broken, tokens)
    with pytest.raises(ValueError, match="whole vocabulary"):
        token_statistics(torch.full((1, 3), -torch.inf), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(4,\)"):
        token_statistics(logits, tokens[:3])
    with pytest.raises(ValueError, match="token -100 is outside"):
        token_statistics(logits, torch.full((4,), -100))
    with pytest.raises(ValueError, match="token 5 is outside"):
        token_statistics(logits, torch.full((4,), 5))
    with pytest.raises(ValueError, match=r"torch\.int64"):
        token_statistics(tokens.unsqueeze(-1), tokens)
    with pytest.raises(ValueError, match="'fast'; choose from auto, eager, compiled, triton"):
        token_statistics(logits, tokens, backend="fast")
    for temperature in (0.0, -1.0, torch.inf, torch.nan):
        with pytest.raises(ValueError, match="temperature is"):
            token_statistics(logits, tokens, temperature=temperature)


def test_small_integer_tokens_see_the_whole_vocabulary():
    logits, _ = sample((2,), 200)
    tokens = torch.tensor([1, 127], dtype=torch.int8)
    for kind in (torch.int8, torch.uint8, torch.uint16, torch.uint32):
        assert_matches(token_statistics(logits, tokens.to(kind)), naive(logits, tokens), 1e-5)
    with pytest.raises(ValueError, match=r"token -3 is outside the vocabulary 0\.\.199"):
        token_statistics(logits, torch.tensor([1, -3], dtype=torch.int8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_autocast_does_not_touch_them(backend, dtype):
    logits, tokens = sample((40,), 500, dtype)
    expected = token_statistics(logits, tokens, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        actual = token_statistics(logits, tokens, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(actual[:4], expected[:4]))


def test_rounding_to_bfloat16_moves_them_as_far_as_is_said():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(512, 1000, generator=generator) + 20
    tokens = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
    exact, rounded = (token_statistics(z, tokens) for z in (logits.double(), logits.bfloat16()))
    moved = [(getattr(exact, n) - getattr(rounded, n)).abs().max() for n in ("entropy", "discriminator", "centred")]
    assert 0.08 < moved[0] < 0.15 and 0.05 < moved[1] < 0.1 and 0.05 < moved[2] < 0.1


@pytest.mark.parametrize("backend", ["eager", "compiled"])
@pytest.mark.parametrize("gap, signs", [(16, True), (22, False)])
def test_the_sign_of_d_in_nearly_certain_states_is_lost_where_that_is_said(backend, gap, signs):
    logits = torch.randn(64, 1000, generator=torch.Generator().manual_seed(gap))
    logits[:, 0] = logits.amax(-1) + gap
    likeliest = torch.zeros(64, dtype=torch.long)
    exact, single = (token_statistics(z, likeliest, backend=backend) for z in (logits.double(), logits))
    assert (exact.centred > 0).all() and torch.equal(single.centred > 0, exact.centred > 0) == signs
    if not signs:
        assert (exact.entropy < 5e-6).all() and (exact.centred < 1e-11).all()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_backward_takes_no_more_memory_than_its_gradient():
    """Of bfloat16 logits; in a process of its own, whose peak is this call's."""
    program = """
from pathlib import Path
import torch
from entropy_dynamics.token_statistics import token_statistics
logits = torch.zeros(800, 100_000, dtype=torch.bfloat16, requires_grad=True)
log_prob = token_statistics(logits, torch.zeros(800, dtype=torch.long), backend="eager").log_prob
def peak():
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
log_prob.sum().backward()
print((peak() - before) / (2 * logits.numel()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0.5 < float(done.stdout) < 1.2


def test_the_baseline_from_a_trainers_own_sums():
    logits = torch.randn(5, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    statistics = token_statistics(logits, torch.zeros(5, dtype=torch.long))
    p = logits.softmax(-1)
    squares = (p**2).sum(-1)
    squares_log = (p**2 * logits).sum(-1) - logits.logsumexp(-1) * squares
    assert torch.allclose(baseline_of(statistics.entropy, squares, squares_log), statistics.baseline, rtol=1e-12)
