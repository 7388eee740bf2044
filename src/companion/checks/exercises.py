"""Exercises at the ends of the notebooks: each function judges an answer, and says what is right or wrong about it.

Each takes the answer, and what the notebook gives it, and returns a sentence, or raises `Wrong` with one.
"""

import math
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from companion.mathematics import batches, remainder
from companion.mathematics.verification import random_policies
from entropy_dynamics import clipping, methods, theory


class Wrong(ValueError):
    """An answer that is not right; the sentence says why."""


def check(exercise: Callable[..., str], answer: object, *given: object) -> None:
    """Print what `exercise` says of `answer`: why it is right or wrong, or, for None, that there is none yet."""
    if answer is None:
        print("Not answered yet.")
        return
    try:
        print("Right:", exercise(answer, *given))
    except Wrong as reason:
        print("Not yet:", reason)


def rare_enough(answer: tuple[list[float], int]) -> str:
    """01: (probabilities, token) with p of at least 0.3, whose push raises entropy."""
    logits, token = _state(answer)
    p, s = logits.softmax(-1)[token].item(), theory.discriminator(logits)[token].item()
    if p < 0.3:
        raise Wrong(f"p is {p:.2f}, and should be 0.3 or more.")
    if s >= 0:
        raise Wrong(f"S is {s:+.3f}: p = {p:.2f} is not below e^-H = {theory.sign_boundary(logits).item():.2f}.")
    return f"S is {s:+.3f}, as p = {p:.2f} is below e^-H = {theory.sign_boundary(logits).item():.2f}."


def lowest_at_one_nat(answer: float) -> str:
    """01: the probability at which S is lowest when H = 1 nat."""
    p = _number(answer, 0, 1)
    s, lowest = p * (1 + math.log(p)), theory.lowest_discriminator(torch.tensor(1.0)).item()
    if s > 0.999 * lowest:
        raise Wrong(f"S is {s:+.4f} there, and can be {lowest:+.4f}.")
    return f"S is {s:+.4f} there, and no policy of that entropy has less."


def push_too_far(answer: tuple[list[float], int, float]) -> str:
    """01: (probabilities, token, eps > 0) where Theorem 3.2 has the wrong sign."""
    *state, eps = _parts(answer, 3)
    logits, token = _state(state)
    eps = _number(eps, 0, math.inf)
    delta = theory.single_logit_update(logits, torch.tensor(token), eps)
    predicted, exact = theory.first_order_change(logits, delta).item(), theory.exact_change(logits, delta).item()
    if predicted * exact >= 0:
        raise Wrong(f"the theorem says {predicted:+.4f} nats, and it is {exact:+.4f}: the sign is right.")
    return f"the theorem says {predicted:+.4f} nats, and it is {exact:+.4f}."


def between_the_theorems(answer: tuple[list[float], int]) -> str:
    """02: (probabilities, token) with S > 0 and D < 0."""
    logits, token = _state(answer)
    s, d = theory.discriminator(logits)[token].item(), _centred(logits)[token].item()
    if s <= 0:
        raise Wrong(f"S is {s:+.4f}, not positive: the token should be likelier.")
    if d >= 0:
        raise Wrong(f"S is {s:+.4f}, but D is {d:+.4f}, not negative: S should be below E_p[S] = {s - d:.4f}.")
    return f"S is {s:+.4f} and D is {d:+.4f}."


def best_penalty(answer: int, probabilities: list[float], alpha: float) -> str:
    """02: the token whose penalty, a GRPO step of `alpha` < 0, raises entropy most."""
    logits, token = _state((probabilities, answer))
    every = torch.arange(len(probabilities))
    states = logits.expand(len(every), -1)
    change = theory.exact_change(states, theory.grpo_logit_update(states, every, alpha))
    if change[token] < change.max():
        raise Wrong(f"that changes entropy by {change[token]:+.4f} nats, and another token does more.")
    return f"entropy rises by {change[token]:+.4f} nats, most of all tokens, as D is the largest."


def idle_groups(answer: float, rate: float, size: int) -> str:
    """02: the share of groups of `size` responses that are all right or all wrong, and so teach nothing."""
    share, idle = _number(answer, 0, 1), 1 - batches.chance_of_a_mixed_group(rate, size)
    if abs(share - idle) > 0.005:
        raise Wrong(f"{share:.3f} is not it: all {size} responses are alike when all are right, or all wrong.")
    return f"{idle:.1%} of the groups have advantages of zero."


def another_zero(answer: list[float], probabilities: list[float]) -> str:
    """03: a sampler that is not the policy of `probabilities`, under which the mean of its D is zero as well."""
    policy, sampler = _logits(probabilities), _logits(answer, len(probabilities)).softmax(-1)
    mean, apart = (sampler * _centred(policy)).sum().item(), (sampler - policy.softmax(-1)).abs().max().item()
    if apart < 0.05:
        raise Wrong("that is the policy itself, or next to it; a probability should differ by 0.05 or more.")
    if abs(mean) > 5e-4:
        raise Wrong(f"the mean of D is {mean:+.4f} nats, and should be zero to three digits.")
    return f"the mean of D is {mean:+.5f} nats, so a mean of zero does not prove that tokens are on policy."


def tokens_to_see_a_bias(answer: float, bias: float, deviation: float) -> str:
    """03: how many tokens make a `bias` of the mean of D three standard errors, with that `deviation` of D."""
    count, needed = _number(answer, 0, math.inf), (3 * deviation / bias) ** 2
    if abs(count / needed - 1) > 0.02:
        found = bias / (deviation / math.sqrt(count))
        raise Wrong(f"with {count:,.0f} tokens the bias is {found:.2f} standard errors, and should be 3.")
    return f"the standard error of {needed:,.0f} tokens is {deviation / math.sqrt(needed):.4f} nats."


def colder_sampler(answer: str, temperature: float) -> str:
    """03: "above", "below" or "at" zero: the mean of D of tokens sampled at a `temperature` below one."""
    policies, _ = random_policies(50, 100, seed=0)
    mean = ((policies / temperature).softmax(-1) * _centred(policies)).sum(-1).mean().item()
    truth = "above" if mean > 1e-9 else "below" if mean < -1e-9 else "at"
    if answer != truth:
        raise Wrong(f"not {answer!r}: at {temperature:g} the likelier tokens come more often than the policy says.")
    return f"over 50 random policies the mean is {mean:+.3f} nats: likely tokens, with D > 0, come too often."


def short_radius(answer: tuple[list[float], int], alpha: float) -> str:
    """04: (probabilities, token) for which a GRPO step of `alpha` or less has the wrong sign in Theorem 3.3."""
    logits, token = _state(answer)
    radius, d = remainder.trust_radius(logits, torch.tensor(token)).item(), _centred(logits)[token].item()
    if radius > alpha:
        raise Wrong(f"D is {d:+.4f}, and the sign is right up to a step of {radius:.2g}: D should be nearer to zero.")
    return f"D is {d:+.4f}, and the sign is wrong from a step of {radius:.2g} on."


def bounded_error(answer: float, alpha: float, vocabulary: int) -> str:
    """04: what the first order leaves out at most, in nats, by the notebook's bound."""
    found, bound = _number(answer, 0, math.inf), remainder.remainder_bound(alpha, vocabulary)
    if not 0.99 * bound <= found <= 1.1 * bound:
        raise Wrong(f"{found:.4g} nats is not what alpha^2 (0.7 + 0.2 log V) gives; alpha is squared, the log natural.")
    return f"{bound:.4f} nats; a step of {alpha / 2:g} would have a quarter of it."


def entropy_sinks(answer: list[tuple[str, str]]) -> str:
    """06: the two groups of tokens, (sign of A, sign of S), through which entropy falls."""
    chosen = {tuple(pair) for pair in answer} if isinstance(answer, (list, set, tuple)) else set()
    for advantage, sign in chosen:
        if advantage == sign:
            continue
        raise Wrong(f"a step on tokens with A {advantage} 0 and S {sign} 0 moves entropy by -A S, which is positive.")
    if chosen != {(">", ">"), ("<", "<")}:
        raise Wrong('name two pairs of ">" and "<", of A and of S.')
    return "-A S is negative for both: without either group entropy stays higher."


def ledger_entry(answer: float, alphas: list[float], centred: list[float]) -> str:
    """06: the change of mean entropy that Theorem 3.3 gives a batch, from alpha and D of its tokens."""
    found, terms = _number(answer, -math.inf, math.inf), [a * d for a, d in zip(alphas, centred, strict=True)]
    entry = -sum(terms) / len(terms)
    if abs(found + entry) < 1e-6:
        raise Wrong("the sign is wrong: rewarding a token with D > 0 lowers entropy.")
    if abs(found + sum(terms)) < 1e-6:
        raise Wrong("that is the sum; the mean entropy of the batch changes by the mean over its states.")
    if abs(found - entry) > 1e-6:
        raise Wrong(f"{found:+.4f} is not -mean(alpha D).")
    return f"{entry:+.4f} nats, by the theorem, before any factor for the network."


def best_to_mask(answer: int, advantages: list[float], centred: list[float]) -> str:
    """07: the token whose mask raises entropy most, relative to a step without a mask."""
    gains = [a * d for a, d in zip(advantages, centred, strict=True)]
    token = _token(answer, len(gains))
    if gains[token] < max(gains):
        raise Wrong(f"masking it changes entropy by {gains[token]:+.3f} for each unit of step; another one does more.")
    return f"its own share of the step is -A D = {-gains[token]:+.3f}, the most negative; the mask takes it away."


def clip_higher_on_policy(answer: str) -> str:
    """07: "raises", "lowers" or "leaves": what clip-higher does to entropy with one update a batch."""
    generator = torch.Generator().manual_seed(0)
    ratio, advantages = torch.ones(1000), torch.randn(1000, generator=generator)
    freed = methods.is_clipped(ratio, advantages) & ~methods.is_clipped(ratio, advantages, clip_high=0.28)
    if freed.any() or answer != "leaves":
        raise Wrong(f"not {answer!r}: look at the importance ratios of tokens that were sampled just now.")
    return "every ratio is 1, so nothing is clipped, and a wider clip frees nothing."


def clip_higher_here(answer: str, clipped: pd.DataFrame) -> str:
    """07: "raises" or "lowers": what a clip at 1.28 does to entropy beside one at 1.2, for these clipped tokens."""
    freed = clipped[(clipped["advantage"] > 0) & (clipped["ratio"] > 1.2) & (clipped["ratio"] <= 1.28)]
    change = -(freed["advantage"] * freed["ratio"] * freed["centred"]).sum()
    truth = "raises" if change > 0 else "lowers"
    above = (freed["centred"] > 0).mean()
    if answer != truth:
        raise Wrong(f"not {answer!r}: {above:.0%} of the {len(freed)} rewarded tokens that it frees have D > 0.")
    return f"it frees {len(freed)} rewarded tokens, {above:.0%} of them with D > 0; the sum of -A r D is {change:+.2f}."


def threshold_for_a_share(answer: float, tokens: pd.DataFrame, share: float) -> str:
    """08: mu at which Clip_B, as released, masks `share` of `tokens` (discriminator, advantage), within an eighth."""
    mu = _number(answer, 0, math.inf)
    s, a = (torch.tensor(tokens[name].to_numpy()) for name in ("discriminator", "advantage"))
    keep = clipping.clip_b(s, a, torch.ones(len(s), dtype=torch.bool), mu=mu)
    masked = 1 - keep.double().mean().item()
    if abs(masked / share - 1) > 1 / 8:
        raise Wrong(f"mu = {mu:g} masks {masked:.2%} of the tokens, too {'many' if masked > share else 'few'}.")
    return f"mu = {mu:g} masks {masked:.2%} of the tokens."


def masked_by_both_sides_only(answer: list[int], discriminators: list[float], advantages: list[float]) -> str:
    """08: the tokens that Clip_B at mu = 1 masks in the two-sided reading and keeps in the released one."""
    s, a = torch.tensor(discriminators), torch.tensor(advantages)
    mask = torch.ones(len(s), dtype=torch.bool)
    two_sided, released = (clipping.clip_b(s, a, mask, mu=1.0, reading=r) for r in ("two-sided", "released"))
    truth = set((released & ~two_sided).nonzero().flatten().tolist())
    found = {_token(token, len(s)) for token in answer} if isinstance(answer, (list, set, tuple)) else set()
    if extra := found - truth:
        token = min(extra)
        both = "both mask it" if not released[token] else "both keep it"
        raise Wrong(f"token {token} is none: {both}.")
    if found != truth:
        raise Wrong(
            f"{len(truth - found)} more: the two-sided reading looks at neither the sign of S's deviation nor at A."
        )
    return "tokens far from the mean on either side, but for penalised ones below it, which both mask."


def _centred(logits: Tensor) -> Tensor:
    return theory.discriminator(logits) - theory.expected_discriminator(logits).unsqueeze(-1)


def _number(answer: object, low: float, high: float) -> float:
    try:
        value = float(answer)
    except (TypeError, ValueError):
        raise Wrong(f"the answer should be a number, and is {answer!r}.") from None
    if not low < value < high:
        raise Wrong(f"{value:g} is not between {low:g} and {high:g}.")
    return value


def _parts(answer: object, count: int) -> tuple:
    if not isinstance(answer, (list, tuple)) or len(answer) != count:
        raise Wrong(f"the answer should have {count} parts, and is {answer!r}.")
    return tuple(answer)


def _token(answer: object, count: int) -> int:
    if not isinstance(answer, int) or not 0 <= answer < count:
        raise Wrong(f"a token should be a number from 0 to {count - 1}, and is {answer!r}.")
    return answer


def _logits(probabilities: object, count: int | None = None) -> Tensor:
    """log p, float64, of probabilities that are positive or zero and sum to one to three digits."""
    try:
        p = torch.tensor(probabilities, dtype=torch.float64)
    except (TypeError, ValueError):
        raise Wrong(f"the probabilities should be a list of numbers, and are {probabilities!r}.") from None
    if p.ndim != 1 or (p < 0).any() or abs(p.sum().item() - 1) > 2e-3 or len(p) != (count or len(p)):
        raise Wrong(f"the probabilities should be {count or 'some'} numbers that sum to 1, and are {probabilities!r}.")
    return (p / p.sum()).log()


def _state(answer: object) -> tuple[Tensor, int]:
    probabilities, token = _parts(answer, 2)
    logits = _logits(probabilities)
    return logits, _token(token, len(logits))
