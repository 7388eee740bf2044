"""The loss, its gradients and the statistics are those of the logits, which are never there."""

import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from entropy_dynamics import grpo, linear_loss, theory
from entropy_dynamics.linear_loss import linear_grpo_loss
from entropy_dynamics.methods import RULES, Terms, TokenBatch, as_terms
from entropy_dynamics.token_statistics import TokenStatistics, token_statistics

N, T, W, V = 6, 5, 8, 40
DRAWN = torch.Generator().manual_seed(0)
HIDDEN = torch.randn(N, T, W, generator=DRAWN, dtype=torch.float64)
WEIGHT = torch.randn(V, W, generator=DRAWN, dtype=torch.float64)
BIAS = torch.randn(V, generator=DRAWN, dtype=torch.float64)
TOKENS = torch.randint(V, (N, T), generator=DRAWN)
MASK = torch.arange(T) < torch.tensor([5, 3, 1, 5, 4, 2]).unsqueeze(-1)
A = torch.tensor([1.2, -0.7, 0.0, 0.4, -1.0, 0.3], dtype=torch.float64).unsqueeze(-1).expand(N, T)


def batch_of(temperature=1.0, bias=None):
    logits = HIDDEN @ WEIGHT.T + (0 if bias is None else bias)
    now = token_statistics(logits, TOKENS, temperature=temperature)
    moved = now.log_prob + 0.2 * torch.randn(N, T, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rewards, groups = (A > 0).double(), torch.arange(N) // 2
    return TokenBatch(
        now, now._replace(log_prob=moved), A, rewards, MASK, groups, entropies=(1.0, 0.9), reference=moved
    )


def drawn_terms(kinds):
    drawn = torch.Generator().manual_seed(2)
    weights, log_prob, entropy = (torch.randn(N, T, generator=drawn, dtype=torch.float64) for _ in range(3))
    weights[0, 1] = log_prob[0, 1] = entropy[0, 1] = 0
    nothing = torch.zeros(N, T, dtype=torch.float64)
    return Terms(*(x if name in kinds else nothing for name, x in zip(Terms._fields, (weights, log_prob, entropy))))


def by_logits(batch, terms, temperature, bias, **options):
    """The loss and the gradients of hidden states, head and bias from whole logits and autograd."""
    inputs = [x.clone().requires_grad_() for x in (HIDDEN, WEIGHT, *([] if bias is None else [bias]))]
    logits = (inputs[0] @ inputs[1].T + (inputs[2] if bias is not None else 0)) / temperature
    log_prob = logits.log_softmax(-1).gather(-1, TOKENS.unsqueeze(-1)).squeeze(-1)
    loss = grpo.loss(log_prob, theory.entropy(logits), batch, terms, **options)
    return loss, torch.autograd.grad(loss, inputs)


def check(batch, terms, *, temperature=1.0, bias=None, backend="eager", **options):
    inputs = [x.clone().requires_grad_() for x in (HIDDEN, WEIGHT, *([] if bias is None else [bias]))]
    loss, statistics = linear_grpo_loss(
        inputs[0],
        inputs[1],
        TOKENS,
        batch,
        terms,
        bias=inputs[2] if bias is not None else None,
        temperature=temperature,
        backend=backend,
        **options,
    )
    expected, gradients = by_logits(batch, terms, temperature, bias, **options)
    assert_close(loss, expected, rtol=1e-11, atol=1e-13)
    for ours, theirs in zip(torch.autograd.grad(3 * loss, inputs), gradients):
        assert_close(ours, 3 * theirs, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(statistics[:4], batch.statistics):
        assert_close(ours, theirs.where(MASK, 0.0), rtol=1e-10, atol=1e-12)
        assert not ours.requires_grad


@pytest.mark.parametrize("most", [1, 3, 1000])
@pytest.mark.parametrize("kinds", [("weights",), ("log_prob",), ("entropy",), Terms._fields, ()])
@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean"])
@pytest.mark.parametrize("denominator", ["all", "kept"])
def test_every_kind_of_coefficient(monkeypatch, kinds, aggregation, denominator, most):
    monkeypatch.setattr(linear_loss, "FEWEST_TOKENS", 1)
    monkeypatch.setattr(linear_loss, "MOST_TOKENS", most)
    check(batch_of(), drawn_terms(kinds), aggregation=aggregation, denominator=denominator)


@pytest.mark.parametrize("backend", ["eager", "compiled"])
@pytest.mark.parametrize("temperature", [0.7, 1.6])
@pytest.mark.parametrize("bias", [None, BIAS])
def test_temperature_and_bias(temperature, bias, backend):
    check(batch_of(temperature, bias), drawn_terms(Terms._fields), temperature=temperature, bias=bias, backend=backend)


OPTIONS = {
    "clip_b": {"mu": 0.5},
    "clip_v": {"mu": 0.5},
    "matched_mask": {"like": "clip_b", "mu": 0.5, "choice": "random"},
    "masked_share": {"statistic": "D", "share": 0.4},
    "reference_kl": {"coefficient": 0.1},
    "sign_weights": {"strength": 0.5},
    "intervention": {"action": "keep", "advantage": "positive", "statistic": "S", "sign": "above"},
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule):
    batch = batch_of()
    terms = RULES[rule](batch, torch.Generator().manual_seed(0), **OPTIONS.get(rule, {}))
    check(batch, terms if isinstance(terms, Terms) else as_terms(batch, terms))


def test_shares_are_what_the_loss_counts():
    batch, terms = batch_of(), drawn_terms(Terms._fields)
    log_prob, entropy = batch.statistics[:2]
    objective = terms.weights * batch.ratio * A + terms.log_prob * log_prob + terms.entropy * entropy
    for aggregation in ("token-mean", "sequence-mean"):
        for denominator in ("all", "kept"):
            options = {"aggregation": aggregation, "denominator": denominator}
            share = grpo.shares(MASK, terms, **options)
            assert_close(-(share * objective).sum(), grpo.loss(log_prob, entropy, batch, terms, **options))
            assert not share[~MASK].any()


def test_what_lies_behind_the_end_token_is_not_read():
    batch, terms = batch_of(), drawn_terms(("weights",))
    hidden = HIDDEN.masked_fill(~MASK.unsqueeze(-1), torch.nan).requires_grad_()
    loss, statistics = linear_grpo_loss(hidden, WEIGHT, TOKENS, batch, terms)
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert_close(loss, by_logits(batch, terms, 1.0, None)[0])
    assert gradient.isfinite().all() and not gradient[~MASK].any() and all(x.isfinite().all() for x in statistics[:4])


def test_nothing_to_train_on_is_zero():
    batch = batch_of()
    empty = TokenBatch(batch.statistics, batch.old, A, batch.rewards, torch.zeros_like(MASK), batch.groups)
    hidden = HIDDEN.clone().requires_grad_()
    loss, statistics = linear_grpo_loss(hidden, WEIGHT, TOKENS, empty, drawn_terms(Terms._fields))
    assert loss == 0 and not torch.autograd.grad(loss, hidden)[0].any() and not statistics.entropy.any()


def test_only_the_gradients_that_are_asked_for():
    weight = WEIGHT.clone().requires_grad_()
    loss, _ = linear_grpo_loss(HIDDEN, weight, TOKENS, batch_of(), drawn_terms(("weights",)))
    assert_close(
        torch.autograd.grad(loss, weight)[0], by_logits(batch_of(), drawn_terms(("weights",)), 1.0, None)[1][1]
    )
    loss, _ = linear_grpo_loss(HIDDEN, WEIGHT, TOKENS, batch_of(), drawn_terms(("weights",)))
    assert not loss.requires_grad


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_lower_precision(monkeypatch, dtype, tolerance):
    monkeypatch.setattr(linear_loss, "FEWEST_TOKENS", 2)
    monkeypatch.setattr(linear_loss, "WORDS_AT_ONCE", 7)
    batch, terms = batch_of(), drawn_terms(Terms._fields)
    inputs = [x.to(dtype).requires_grad_() for x in (HIDDEN, WEIGHT)]
    loss, statistics = linear_grpo_loss(*inputs, TOKENS, batch, terms)
    assert loss.dtype == statistics.entropy.dtype == torch.float32
    expected, gradients = by_logits(batch, terms, 1.0, None)
    assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), gradients):
        assert ours.dtype == dtype
        assert_close(ours.double(), theirs, rtol=0, atol=tolerance * theirs.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("share", [1.0, 1e-6])
def test_confident_tokens_and_small_shares_keep_their_digits_in_half_precision(dtype, share):
    """Against the exact gradient of the same inputs, token by token; the small share comes back as a loss scale."""
    drawn = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 32, generator=drawn).to(dtype)
    tokens = torch.randint(300, (1, 64), generator=drawn)
    towards = torch.linspace(0.5, 16, 64).view(1, 64, 1) / 32 * weight[tokens].float()  # p from small to nearly 1
    hidden = (towards + 0.05 * torch.randn(1, 64, 32, generator=drawn)).to(dtype)
    mask, nothing = torch.ones(1, 64, dtype=torch.bool), torch.zeros(1, 64)
    logits = (hidden @ weight.T).double().requires_grad_()
    log_prob = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    old = TokenStatistics(log_prob.detach().float(), nothing, nothing, nothing)
    batch = TokenBatch(old, old, nothing + share, nothing, mask, torch.zeros(1, dtype=torch.long))
    (of_logits,) = torch.autograd.grad(grpo.loss(log_prob, nothing.double(), batch, as_terms(batch, mask)), logits)
    inputs = hidden.requires_grad_(), weight.requires_grad_()
    loss, _ = linear_grpo_loss(*inputs, tokens, batch, as_terms(batch, mask))
    of_hidden, of_weight = torch.autograd.grad(loss / share, inputs)
    assert log_prob.exp().max() > 0.999 and log_prob.exp().min() < 0.5
    exact = of_logits @ weight.double() / share
    error = (of_hidden.double() - exact).norm(dim=-1) / exact.norm(dim=-1)
    enough = exact.norm(dim=-1) > (1e-4 if dtype == torch.float16 else 0)  # which float16 can hold
    assert error[enough].max() < 0.05 and log_prob[enough].max().exp() > 0.99
    exact = of_logits[0].T @ hidden[0].double() / share
    assert (of_weight.double() - exact).norm() < 0.01 * exact.norm()


def test_masked_words_with_an_entropy_term():
    bias = BIAS.clone()
    bias[::3] = -torch.inf
    tokens_of_mass = TOKENS - (TOKENS % 3 == 0).long()
    tokens_of_mass[tokens_of_mass < 0] = 1
    logits = (HIDDEN @ WEIGHT.T + bias).requires_grad_()
    now = token_statistics(logits.detach(), tokens_of_mass)
    batch = TokenBatch(now, now, A, A, MASK, torch.arange(N))
    terms = drawn_terms(Terms._fields)
    log_prob = logits.log_softmax(-1).gather(-1, tokens_of_mass.unsqueeze(-1)).squeeze(-1)
    hidden = HIDDEN.clone().requires_grad_()
    loss, _ = linear_grpo_loss(hidden, WEIGHT, tokens_of_mass, batch, terms, bias=bias)
    assert_close(loss, grpo.loss(log_prob, theory.entropy(logits), batch, terms))
    finite = torch.isfinite(bias)
    kept = (HIDDEN @ WEIGHT[finite].T + bias[finite]).requires_grad_()
    at = finite.cumsum(0)[tokens_of_mass] - 1
    log_prob = kept.log_softmax(-1).gather(-1, at.unsqueeze(-1)).squeeze(-1)
    (of_kept,) = torch.autograd.grad(grpo.loss(log_prob, theory.entropy(kept), batch, terms), kept)
    assert_close(torch.autograd.grad(loss, hidden)[0], of_kept @ WEIGHT[finite], rtol=1e-9, atol=1e-12)


def test_under_autocast_it_is_that_of_its_linear_layer():
    batch, terms = batch_of(), drawn_terms(("weights",))
    half = [x.bfloat16().requires_grad_() for x in (HIDDEN, WEIGHT)]
    single = [x.float().requires_grad_() for x in (HIDDEN, WEIGHT)]
    expected, _ = linear_grpo_loss(*half, TOKENS, batch, terms)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = linear_grpo_loss(*single, TOKENS, batch, terms)
        exact, _ = linear_grpo_loss(HIDDEN, WEIGHT, TOKENS, batch, terms)
    assert loss == expected and exact.dtype == torch.float64
    assert all(x.dtype == torch.float32 for x in torch.autograd.grad(loss, single))


def test_the_gradient_flows_once_and_is_made_only_where_one_is_wanted(monkeypatch):
    batch, terms = batch_of(), drawn_terms(("weights",))
    weight = WEIGHT.clone().requires_grad_()
    loss, _ = linear_grpo_loss(HIDDEN, weight, TOKENS, batch, terms)
    loss.backward()
    with pytest.raises(RuntimeError, match="can be taken once"):
        loss.backward()
    monkeypatch.setattr(linear_loss, "_multiply", lambda *_: pytest.fail("a gradient was made"))
    with torch.no_grad():
        assert not linear_grpo_loss(HIDDEN, weight, TOKENS, batch, terms)[0].requires_grad


def test_objectives_that_nobody_defined_are_refused_by_every_loss():
    batch, terms = batch_of(), drawn_terms(Terms._fields)

    def of_logits(terms, **options):
        return grpo.loss(batch.statistics.log_prob, batch.statistics.entropy, batch, terms, **options)

    def of_states(terms, **options):
        return linear_grpo_loss(HIDDEN, WEIGHT, TOKENS, batch, terms, **options)

    for loss in (of_logits, of_states):
        with pytest.raises(ValueError, match="aggregation is 'token_mean', expected 'token-mean' or 'sequence-mean'"):
            loss(terms, aggregation="token_mean")
        with pytest.raises(ValueError, match="denominator is 'ALL', expected 'all' or 'kept'"):
            loss(terms, denominator="ALL")
        with pytest.raises(ValueError, match=r"the terms' weights have shape \(6,\), expected \(6, 5\) like the mask"):
            loss(terms._replace(weights=torch.ones(N)))
        with pytest.raises(TypeError, match=r"terms are a Tensor, expected Terms; methods.as_terms"):
            loss(terms.weights)


def test_bad_input_is_named():
    batch, terms = batch_of(), drawn_terms(("weights",))
    for arguments, message in (
        ((HIDDEN, WEIGHT[:, 1:], TOKENS), "weight \\(V, W\\)"),
        ((HIDDEN, WEIGHT.float(), TOKENS), "weight is torch.float32"),
        ((HIDDEN[:3], WEIGHT, TOKENS[:3]), r"tokens have shape \(3, 5\), expected \(6, 5\) like the mask"),
        ((HIDDEN, WEIGHT, TOKENS + V), "outside the vocabulary"),
        ((HIDDEN * torch.nan, WEIGHT, TOKENS), "largest logit of a state is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            linear_grpo_loss(*arguments, batch, terms)
    with pytest.raises(ValueError, match="temperature is 0"):
        linear_grpo_loss(HIDDEN, WEIGHT, TOKENS, batch, terms, temperature=0)


MEMORY = """
from pathlib import Path
import torch
from entropy_dynamics import grpo
from entropy_dynamics.linear_loss import linear_grpo_loss
from entropy_dynamics.methods import TokenBatch, as_terms
from entropy_dynamics.token_statistics import TokenStatistics
rows, length, width, vocabulary = 16, 256, 16, 40_000
def peak():
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
hidden = torch.randn(rows, length, width, requires_grad=True)
weight = torch.randn(vocabulary, width, requires_grad=True)
tokens, mask = torch.zeros(rows, length, dtype=torch.long), torch.ones(rows, length, dtype=torch.bool)
nothing = torch.zeros(rows, length)
old = TokenStatistics(nothing - 11, nothing, nothing, nothing)
batch = TokenBatch(old, old, nothing + 1, nothing, mask, torch.zeros(rows, dtype=torch.long))
before = peak()
loss, _ = linear_grpo_loss(hidden, weight, tokens, batch, as_terms(batch, mask), backend="eager")
loss.backward()
gradients = 4 * (hidden.numel() + weight.numel())  # what is returned
print((peak() - before - gradients) / (4 * 3 * tokens.numel() * vocabulary))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_with_thousands_of_tokens_the_logits_of_512_are_there_at_once():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    # of logits, log-probabilities and their gradient: 512 of 4,096 tokens are a 24th; a quarter would be a 12th
    assert 1 / 30 < float(done.stdout) < 1 / 16


def test_half_precision_scales_by_the_entropy_coefficient_alone_where_there_is_no_other():
    terms = Terms(*(x.to(torch.float32) for x in drawn_terms(("entropy",))))
    batch = batch_of()
    found = {}
    for dtype in (torch.float64, torch.float16):
        hidden, weight = (x.half().to(dtype).requires_grad_() for x in (HIDDEN, WEIGHT))
        linear_grpo_loss(hidden, weight, TOKENS, batch, terms, backend="eager")[0].backward()
        found[dtype] = [hidden.grad.double(), weight.grad.double()]
    for ours, exact in zip(found[torch.float16], found[torch.float64]):
        assert exact.any() and (ours - exact).norm() < 0.02 * exact.norm()


def test_tokens_without_a_coefficient_are_not_multiplied(monkeypatch):
    seen = []
    original = linear_loss._multiply

    def spy(grad, *arguments):
        seen.append(len(grad))
        return original(grad, *arguments)

    monkeypatch.setattr(linear_loss, "_multiply", spy)
    batch = batch_of()
    weights = torch.zeros(N, T, dtype=torch.float64)
    weights[1, 0] = weights[3, 2] = 1.0
    hidden = HIDDEN.clone().requires_grad_()
    linear_grpo_loss(hidden, WEIGHT, TOKENS, batch, as_terms(batch, weights), backend="eager")[0].backward()
    assert sum(seen) == 2 and (hidden.grad.abs().sum(-1) > 0).sum() == 2
