"""The statistics from hidden states and head are those of the logits, which are never there."""

import pytest
import torch
from torch.testing import assert_close

from entropy_dynamics import linear_statistics
from entropy_dynamics.linear_statistics import linear_token_statistics
from entropy_dynamics.token_statistics import token_statistics


def sample(*shape, vocabulary=300, width=24, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(shape))
    hidden = torch.randn(*shape, width, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64).to(dtype)
    return hidden, weight, bias, torch.randint(vocabulary, shape, generator=generator)


def gradients(log_prob, *inputs):
    weights = torch.linspace(-1, 2, log_prob.numel(), dtype=log_prob.dtype).view(log_prob.shape)
    return torch.autograd.grad(log_prob, inputs, weights)


@pytest.mark.parametrize("backend", ["eager", "compiled"])
@pytest.mark.parametrize("chunk", [1, 64, 299, 300, 1000])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)])
def test_they_are_those_of_the_logits(shape, with_bias, chunk, backend, monkeypatch):
    monkeypatch.setattr(linear_statistics, "CHUNK_ELEMENTS", 0)
    monkeypatch.setattr(linear_statistics, "SMALLEST_CHUNK", chunk)
    hidden, weight, bias, tokens = sample(*shape)
    inputs = [x.requires_grad_() for x in ((hidden, weight, bias) if with_bias else (hidden, weight))]
    options = {"temperature": 0.8, "backend": backend, "curvature": True}
    actual = linear_token_statistics(hidden, weight, tokens, bias=bias if with_bias else None, **options)
    logits = hidden @ weight.T + (bias if with_bias else 0)
    expected = token_statistics(logits, tokens, **options | {"backend": "eager"})
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-12)
    for a, b in zip(gradients(actual.log_prob, *inputs), gradients(expected.log_prob, *inputs)):
        assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_accumulated_in_float32(dtype, monkeypatch):
    monkeypatch.setattr(linear_statistics, "SMALLEST_CHUNK", 7)
    monkeypatch.setattr(linear_statistics, "CHUNK_ELEMENTS", 0)
    hidden, weight, _, tokens = sample(40, dtype=dtype)
    hidden.requires_grad_(), weight.requires_grad_()
    actual = linear_token_statistics(hidden, weight, tokens)
    expected = token_statistics(hidden @ weight.T, tokens)  # whose logits are rounded to dtype, too
    assert all(x.dtype == torch.float32 for x in actual[:4])
    for a, b in zip(actual[:4], expected):
        assert_close(a, b, rtol=1e-5 if dtype == torch.float32 else 0.02, atol=1e-5)
    for a, b in zip(gradients(actual.log_prob, hidden, weight), gradients(expected.log_prob, hidden, weight)):
        assert a.dtype == dtype
        assert_close(a, b, rtol=0, atol=(3e-6 if dtype == torch.float32 else 0.01) * b.abs().max().item())


def test_under_autocast_they_are_those_of_its_linear_layer():
    hidden, weight, _, tokens = sample(40, dtype=torch.float32)
    hidden, weight = hidden.bfloat16().requires_grad_(), weight.requires_grad_()  # the head is in float32
    with torch.autocast("cpu", torch.bfloat16):
        actual = linear_token_statistics(hidden, weight, tokens)
        logits = torch.nn.functional.linear(hidden, weight)
    expected = token_statistics(logits, tokens)
    for a, b in zip(actual[:4], expected[:4]):
        assert_close(a, b, rtol=1e-5, atol=1e-5)
    for a, b, x in zip(*(gradients(found.log_prob, hidden, weight) for found in (actual, expected)), (hidden, weight)):
        assert a.dtype == x.dtype
        assert_close(a, b, rtol=0, atol=0.02 * b.abs().max().item())


def test_only_the_gradients_that_are_asked_for():
    hidden, weight, bias, tokens = sample(5)
    both = gradients(
        linear_token_statistics(hidden.requires_grad_(), weight.requires_grad_(), tokens, bias=bias).log_prob,
        hidden,
        weight,
    )
    frozen = linear_token_statistics(hidden, weight.detach(), tokens, bias=bias)
    assert_close(gradients(frozen.log_prob, hidden)[0], both[0])
    fixed = linear_token_statistics(hidden.detach(), weight, tokens, bias=bias)
    assert_close(gradients(fixed.log_prob, weight)[0], both[1])
    assert not linear_token_statistics(hidden.detach(), weight.detach(), tokens).log_prob.requires_grad
    assert [x.requires_grad for x in fixed[:4]] == [True, False, False, False]


def test_words_that_a_bias_masks(monkeypatch):
    monkeypatch.setattr(linear_statistics, "CHUNK_ELEMENTS", 0)
    monkeypatch.setattr(linear_statistics, "SMALLEST_CHUNK", 50)
    hidden, weight, bias, tokens = sample(6)
    for masked in (slice(0, 130), slice(120, 300)):  # whole chunks at either end
        some = bias.clone()
        some[masked] = -torch.inf
        actual = linear_token_statistics(hidden, weight, tokens, bias=some, curvature=True)
        expected = token_statistics(hidden @ weight.T + some, tokens, curvature=True)
        for a, b in zip(actual[:4], expected[:4]):
            assert_close(a, b, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="whole vocabulary"):
        linear_token_statistics(hidden, weight, tokens, bias=bias - torch.inf)


def test_bad_input_is_refused_by_name():
    hidden, weight, bias, tokens = sample(5)
    with pytest.raises(ValueError, match=r"\(5, 24\) and \(300, 23\)"):
        linear_token_statistics(hidden, weight[:, 1:], tokens)
    with pytest.raises(ValueError, match=r"bias has shape \(299,\), expected \(300,\)"):
        linear_token_statistics(hidden, weight, tokens, bias=bias[1:])
    with pytest.raises(ValueError, match=r"weight is torch\.float32, expected torch\.float64"):
        linear_token_statistics(hidden, weight.float(), tokens)
    with pytest.raises(ValueError, match=r"tokens have shape \(4,\), expected \(5,\)"):
        linear_token_statistics(hidden, weight, tokens[1:])
    with pytest.raises(ValueError, match="token 300 is outside"):
        linear_token_statistics(hidden, weight, tokens + 300 - tokens[0])
    with pytest.raises(ValueError, match="temperature is 0"):
        linear_token_statistics(hidden, weight, tokens, temperature=0)
    with pytest.raises(ValueError, match="'fast'; choose from"):
        linear_token_statistics(hidden, weight, tokens, backend="fast")
    hidden[3, 2] = torch.nan
    with pytest.raises(ValueError, match="largest logit of a state is nan"):
        linear_token_statistics(hidden, weight, tokens)


@pytest.mark.parametrize(("scale", "softcap"), [(0.25, None), (1.0, 3.0), (2.0, 5.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scaled_and_capped_heads(scale, softcap, dtype, monkeypatch):
    monkeypatch.setattr(linear_statistics, "CHUNK_ELEMENTS", 0)
    monkeypatch.setattr(linear_statistics, "SMALLEST_CHUNK", 64)
    hidden, weight, bias, tokens = sample(7, dtype=dtype)
    inputs = [x.requires_grad_() for x in (hidden, weight, bias)]
    options = {"temperature": 0.8, "curvature": True}
    actual = linear_token_statistics(hidden, weight, tokens, bias=bias, scale=scale, softcap=softcap, **options)
    logits = scale * (hidden @ weight.T + bias)
    expected = token_statistics(logits if softcap is None else softcap * (logits / softcap).tanh(), tokens, **options)
    close = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 2e-5}
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, **close)
    for a, b in zip(gradients(actual.log_prob, *inputs), gradients(expected.log_prob, *inputs)):
        assert_close(a, b, **close)


@pytest.mark.parametrize("option", [{"scale": 0.0}, {"softcap": -1.0}, {"softcap": torch.inf}])
def test_a_scale_or_a_cap_that_is_none_is_refused(option):
    hidden, weight, _, tokens = sample(3)
    with pytest.raises(ValueError, match="expected a positive finite number"):
        linear_token_statistics(hidden, weight, tokens, **option)
