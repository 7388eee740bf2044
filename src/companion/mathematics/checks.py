"""What decides the claims of notebooks 01 to 04: each function returns whether a claim holds, and the evidence.

A check is as strong as its claim: it fails with the wrong formulas of docs/mutants.md, but for survivors named there.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from sympy import Expr
from torch import Tensor

from companion.mathematics import batches, landscapes, remainder, sampling, symbolic, verification
from companion.mathematics.verification import log_log_slope, random_policies
from entropy_dynamics import theory
from entropy_dynamics.token_statistics import token_statistics

Decision = tuple[bool, str]
SMALL_STEPS = np.geomspace(1e-3, 1e-1, 5)


def proven(*statements: Callable[[int], list[Expr]], sizes: Sequence[int] = (2, 3, 4)) -> Decision:
    """Every difference of every statement of `symbolic` simplifies to zero."""
    holds = all(symbolic.all_zero(statement(size)) for statement in statements for size in sizes)
    return holds, f"all differences simplify to 0 for V = {', '.join(map(str, sizes))}"


def lemma_3_1_random(sizes: Sequence[int], *, states: int, seed: int) -> Decision:
    """What Lemma 3.1 neglects falls as the square of the push."""
    slopes = {}
    for size in sizes:
        z, k = random_policies(states, size, seed=seed)
        errors = []
        for eps in SMALL_STEPS:
            delta = theory.single_logit_update(z, k, eps)
            exact = (z + delta).softmax(-1) - z.softmax(-1)
            errors.append((exact - theory.probability_change(z, delta)).abs().sum(-1).mean().item())
        slopes[size] = log_log_slope(SMALL_STEPS, errors)
    return all(abs(slope - 2) < 0.05 for slope in slopes.values()), "error falls with slope " + _by_size(slopes)


def autograd_gradient(sizes: Sequence[int], *, states: int, seed: int) -> Decision:
    """-S is the gradient of H that autograd finds."""
    worst = 0.0
    for size in sizes:
        z, _ = random_policies(states, size, seed=seed)
        z.requires_grad_()
        (gradient,) = torch.autograd.grad(-(z.softmax(-1) * z.log_softmax(-1)).sum(), z)
        worst = max(worst, (gradient + theory.discriminator(z.detach())).abs().max().item())
    return worst < 1e-12, f"largest difference below 1e-12 nats for V = {', '.join(f'{size:,}' for size in sizes)}"


def orders(remainders: pd.DataFrame) -> Decision:
    """What the first order leaves falls with slope 2, what both orders leave with slope 3 (see `remainder_table`)."""
    slopes = {
        size: (log_log_slope(group.step, group.first_order), log_log_slope(group.step, group.second_order))
        for size, group in remainders.groupby("vocabulary")
    }
    return (
        all(abs(first - 2) < 0.05 and abs(second - 3) < 0.05 for first, second in slopes.values()),
        "slopes "
        + ", ".join(f"{first:.2f} and {second:.2f} (V = {size:,})" for size, (first, second) in slopes.items()),
    )


def formula(agreements: pd.DataFrame, *, r_squared_floor: Sequence[float], sign_floor: Sequence[float]) -> Decision:
    """At every step R^2 and the share of right signs pass their floors, and those of no wrong twin do so throughout.

    Args:
        agreements: as from `verification.agreement_table`; the floors go with its steps, in order.
    """
    r_squared, signs = (
        agreements.pivot(index="step", columns="prediction", values=name) for name in ("r_squared", "sign_agreement")
    )
    passes = r_squared.gt(list(r_squared_floor), axis=0) & signs.gt(list(sign_floor), axis=0)
    twins = r_squared.filter(like="wrong").columns
    return (
        bool(passes["first order"].all() and not passes[twins].all().any()),
        f"R^2 {', '.join(f'{value:.4f}' for value in r_squared['first order'])}, right signs "
        f"{', '.join(f'{value:.1%}' for value in signs['first order'])}; each of the {len(twins)} wrong twins fails",
    )


def sign_rule(sizes: Sequence[int], steps: Sequence[float], *, states: int, seed: int) -> Decision:
    """The sign rule holds to the very edge of its radius, its falls at every step, and no wider radius would do.

    Every token of every policy is pushed by every step, up and down, and by its own radius. Then a token so rare that
    the rule fails 1 % beyond the radius.
    """
    tried = falls = rises = beyond = wrong_falls = wrong_rises = 0
    for size in sizes:
        for z in random_policies(states, size, seed=seed)[0]:
            every, k = z.expand(size, size), torch.arange(size)
            s, radius = theory.discriminator(z), theory.sign_rule_radius(z)
            for eps in [sign * x for x in (*(torch.full_like(s, x) for x in steps), radius) for sign in (1.0, -1.0)]:
                exact = theory.exact_change(every, theory.single_logit_update(every, k, eps))
                is_fall, inside = eps * s > 0, eps.abs() <= radius
                tried += size
                falls += int(is_fall.sum())
                rises += int((~is_fall & inside).sum())
                wrong_falls += int((is_fall & (exact > 0)).sum())
                wrong_rises += int((~is_fall & inside & (exact < -1e-15)).sum())
                beyond += int((~is_fall & ~inside & (exact < 0)).sum())
    edge = []  # H = log 50 and H + log p = -400
    z = torch.zeros(51, dtype=torch.float64)
    z[0] = -400.0
    radius = theory.sign_rule_radius(z)[0].item()
    for share in (1.0, 1.01):
        edge.append(theory.exact_change(z, theory.single_logit_update(z, torch.tensor(0), share * radius)).item())
    return (
        wrong_falls == wrong_rises == 0 < beyond and min(falls, rises) > tried / 10 and edge[0] > 0 > edge[1],
        f"{tried:,} updates, {falls:,} predicted falls and {rises:,} predicted rises within the radius, none wrong; "
        f"beyond it {beyond:,} rises are falls; of a token with H + log p = {-radius:.0f} the sign is right at the "
        "radius and wrong 1 % beyond",
    )


def sign_rule_of_tokens(changes: pd.DataFrame) -> Decision:
    """No predicted fall is a rise, and no predicted rise within |H + log p| is a fall (a table of positive pushes)."""
    radius = (changes.entropy + changes.log_prob).abs()
    falls = changes.step * changes.discriminator > 0
    wrong = np.where(falls, changes.exact > 0, changes.exact < 0)
    inside = changes.step <= radius
    counts = [f"{wrong[changes.step == step].sum()} at eps = {step:g}" for step in sorted(changes.step.unique())]
    return (
        (wrong & falls).sum() == 0 and (wrong & inside).sum() == 0 < wrong.sum() and (~falls & inside).sum() > 500,
        f"{(~falls & inside).sum():,} predicted rises inside the radius; wrong: {', '.join(counts)} of "
        f"{changes.token.nunique():,} tokens; all of them predicted rises outside the radius",
    )


def lowest_discriminator(sizes: Sequence[int], *, states: int, seed: int) -> Decision:
    """S >= -e^{-1-H}, reached by policies from H = 0.524 on; over all policies S >= -0.2239."""
    least_p, least_s = landscapes.lowest_over_all_policies()
    threshold = landscapes.lowest_entropy_that_attains_minimum()
    gaps = []  # S - (-e^{-1-H}) of constructed policies at the minimising probability
    for h in np.linspace(threshold + 1e-6, 6.0, 25):
        z = landscapes.policy_at(float(np.exp(-1 - h)), float(h), 1000)
        gaps.append((theory.discriminator(z)[0] - theory.lowest_discriminator(theory.entropy(z))).abs().item())
    slack, lowest = [], []
    for size in sizes:
        z, _ = random_policies(states, size, seed=seed)
        s = theory.discriminator(z).amin(-1)
        slack.append((s - theory.lowest_discriminator(theory.entropy(z))).min().item())
        lowest.append(s.min().item())
    coin = theory.discriminator(torch.tensor([least_p, 1 - least_p], dtype=torch.float64).log())[0].item()
    return (
        max(gaps) < 1e-9
        and min(slack) > -1e-12
        and abs(threshold - 0.524) < 5e-4
        and abs(least_s + 0.2239) < 5e-5
        and min(lowest) >= least_s - 1e-12
        and abs(coin - least_s) < 1e-9,
        f"bound attained for H >= {threshold:.3f}; lowest S of any policy {least_s:.4f} at p = {least_p:.3f}",
    )


def surrogate_gradient(sizes: Sequence[int], *, states: int, seed: int) -> Decision:
    """The gradient of r A in the logits is r A (e_k - p)."""
    worst = 0.0
    for size in sizes:
        z, k = random_policies(states, size, seed=seed)
        old, _ = random_policies(states, size, seed=seed + 1)
        advantage = torch.linspace(-2, 2, states, dtype=torch.float64)
        z.requires_grad_()
        log_ratio = (z.log_softmax(-1) - old.log_softmax(-1)).gather(-1, k.unsqueeze(-1)).squeeze(-1)
        surrogate = log_ratio.exp() * advantage
        (gradient,) = torch.autograd.grad(surrogate.sum(), z)
        closed_form = theory.grpo_logit_update(z.detach(), k, surrogate.detach())
        error = (gradient - closed_form).abs().amax(-1) / surrogate.detach().abs().clamp(min=1)
        worst = max(worst, error.max().item())
    sizes_in_words = ", ".join(f"{size:,}" for size in sizes)
    return worst < 1e-12, f"autograd and r A (e_k - p) differ by less than 1e-12 for V = {sizes_in_words}"


def covariance_law(sizes: Sequence[int], *, states: int, seed: int) -> Decision:
    """Theorem 3.3 averaged over k ~ p is -Cov_p(A, S) and the covariance law of Cui et al."""
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for size in sizes:
        z, _ = random_policies(states, size, seed=seed)
        p, s = z.softmax(-1), theory.discriminator(z)
        advantage = torch.randn(z.shape, generator=generator, dtype=torch.float64)
        mean_advantage = torch.linalg.vecdot(p, advantage).unsqueeze(-1)
        averaged = -(p * advantage * (s - theory.expected_discriminator(z).unsqueeze(-1))).sum(-1)  # Theorem 3.3
        cov_a_s = -(p * (advantage - mean_advantage) * s).sum(-1)
        cui = theory.covariance_change(z, p * (advantage - mean_advantage))
        worst = max(worst, (averaged - cov_a_s).abs().max().item(), (averaged - cui).abs().max().item())
    return worst < 1e-12, "three ways to write E_k[dH] / eta agree to 1e-12 nats"


def entropy_bonus(sizes: Sequence[int], *, states: int, seed: int) -> Decision:
    """The logit change -beta S of an entropy bonus raises entropy in every state, as predicted."""
    worst, rises = 0.0, True
    for size in sizes:
        z, _ = random_policies(states, size, seed=seed)
        exact = theory.exact_change(z, -1e-4 * theory.discriminator(z))
        worst = max(worst, ((exact - theory.entropy_bonus_change(z, 1e-4)).abs() / exact).max().item())
        rises &= bool((exact > 0).all())
    return rises and worst < 1e-3, "entropy rises in every state, as predicted to within 0.1 %"


def baseline(sizes: Sequence[int], *, states: int, seed: int) -> Decision:
    """E_p[S] >= 0; of all tokens with S > 0 those with S < E_p[S] change sign between the theorems, and no others.

    Tokens so near an edge of the band that the second order of a step of 1e-4 decides are counted, not judged.
    """
    flipped = kept = edge = wrong = 0
    lowest = np.inf
    for size in sizes:
        z, _ = random_policies(states, size, seed=seed)
        expected = theory.expected_discriminator(z)
        s, band = theory.discriminator(z), theory.disagreement_band(z)
        lowest = min(lowest, expected.min().item())
        for state, k in (s > 0).nonzero().tolist():
            one, token = z[state], torch.tensor(k)
            if min(s[state, k], abs(expected[state] - s[state, k])) < 1e-3 * one.softmax(-1)[k]:
                edge += 1
                continue
            alone = theory.exact_change(one, theory.single_logit_update(one, token, 1e-4))
            coupled = theory.exact_change(one, theory.grpo_logit_update(one, token, 1e-4))
            flips = bool(alone < 0 < coupled)
            wrong += flips != bool(band[state, k])
            flipped += flips
            kept += not flips
    return (
        lowest >= 0 and wrong == 0 and min(flipped, kept) > 100,
        f"E_p[S] >= {max(lowest, 0):.3f}; all {flipped} band tokens change sign, none of {kept} other likely ones does "
        f"({edge} on an edge not judged)",
    )


def baseline_of_states(
    changes: pd.DataFrame, band: pd.DataFrame, batches: Iterable[tuple[Tensor, Tensor]], step: float
) -> Decision:
    """The band holds more than a tenth of a language model's mass, and its sampled tokens change sign, others do not.

    Args:
        changes: GRPO changes of the sampled tokens of the `batches` (see `change_table`), with `step` among the steps.
        band: of the same states (see `band_table`), with the column source, the random policies first.
    """
    smallest = changes[changes.step == step].set_index("token")
    is_band = (smallest.discriminator > 0) & (smallest.discriminator < smallest.baseline)
    is_likely = smallest.discriminator > smallest.baseline
    alone = np.concatenate(
        [
            theory.exact_change(z.double(), theory.single_logit_update(z.double(), k, step)).numpy()
            for batch in batches
            for z, k in zip(*(x.split(verification.STATES_AT_ONCE) for x in batch))
        ]
    )
    flips = (alone < 0) & (smallest.exact > 0)
    mass = band.groupby("source", sort=False).mass.mean()
    share, band_flips, others_flip = is_band.mean(), flips[is_band].mean(), flips[is_likely].mean()
    return (
        bool(
            band.baseline.min() > -1e-12 and min(mass.iloc[1], share) > 0.1 and band_flips > 0.99 > 0.01 > others_flip
        ),
        f"E_p[S] never negative; band mass {mass.iloc[1]:.1%} (random policies {mass.iloc[0]:.1%}); {share:.1%} of "
        f"sampled tokens lie in it, and {band_flips:.1%} of those change sign at step {step:g}, {others_flip:.1%} of "
        "those above it",
    )


def sum_over_responses(sequences: pd.DataFrame) -> Decision:
    """The sum of D over enumerated responses has expectation zero, and is not itself small."""
    total = (sequences.probability * sequences.centred).sum()
    typical = (sequences.probability * sequences.centred.abs()).sum()
    return (
        abs(total) < 1e-15 and typical > 0.05,
        f"{len(sequences)} responses: E[sum of D] is zero to 1e-15, E|sum of D| is {typical:.2f} nats",
    )


def length_bias(bias: pd.DataFrame, sequences: pd.DataFrame) -> Decision:
    """The token mean of D has a bias that tends to -Cov(T, L) / (n E[L]^2), the mean per response one that stays.

    Args:
        bias: responses (doubling), tokens and sequences, the exact expectations of the two means.
        sequences: as from `sampling.enumerate_sequences`; T is the sum of D over a response, L its length.
    """
    slope = log_log_slope(bias.responses[-4:], bias.tokens[-4:].abs())
    stays = bias.sequences.abs().min() > 0.9 * abs(bias.tokens.iloc[0]) > 1e-4
    mean_length = (sequences.probability * sequences.length).sum()
    limit = -(sequences.probability * sequences.length * sequences.centred).sum() / mean_length**2
    ratio = bias.responses.iloc[-1] * bias.tokens.iloc[-1] / limit
    return (
        bool(abs(slope + 1) < 0.05 and stays and abs(ratio - 1) < 0.01),
        f"bias of the mean per response {bias.sequences.iloc[-1]:.5f} nats at every batch size; of the token mean, "
        f"slope {slope:.2f}, and {ratio:.3f} of -Cov(T, L) / (n E[L]^2) with {bias.responses.iloc[-1]} responses",
    )


def batch_means(means: pd.DataFrame, variance: Tensor) -> Decision:
    """Batch means of D scatter around zero by their exact standard error, which falls as 1 / sqrt(n).

    Args:
        means: as from `sampling.batch_means`.
        variance: of D in each state (states,), see `sampling.centred_variance`.
    """
    error = variance.mean().sqrt().item() / np.sqrt(means["size"])
    z = means.centred / error
    rms = means.centred.pow(2).groupby(means["size"]).mean().pow(0.5)
    slope = log_log_slope(rms.index, rms)
    square, noise = (z**2).mean(), np.sqrt(2 / len(z))
    offsets = z.groupby(means["size"]).agg(lambda x: abs(x.mean()) * np.sqrt(len(x)))
    return (
        bool(abs(slope + 0.5) < 0.05 and abs(square - 1) < 3.5 * noise and offsets.max() < 4),
        f"RMS mean of D falls with slope {slope:.2f}; mean square in units of the exact standard error {square:.2f}, "
        f"expected 1 to within {3.5 * noise:.2f}; means over all batches within {offsets.max():.1f} of their standard "
        "errors of zero",
    )


def mean_of_tokens(centred: Tensor, discriminator: Tensor, standard_error: float) -> Decision:
    """The mean of D over sampled tokens is within three standard errors of zero, that of S far from it."""
    mean_d, mean_s = centred.double().mean().item(), discriminator.double().mean().item()
    return (
        abs(mean_d) < 3 * standard_error and mean_s > 10 * standard_error,
        f"{len(centred):,} tokens: mean D = {mean_d:.4f} ({mean_d / standard_error:.1f} standard errors of "
        f"{standard_error:.4f}), mean S = {mean_s:.3f}",
    )


def samplers(bias: pd.DataFrame) -> Decision:
    """Importance weights and the sampler's own statistics make the mean of D zero, where they can; elsewhere it is not.

    Args:
        bias: as from `sampling.sampler_bias`.
    """
    repaired = ["on policy", "stale, weighted", "temperature, weighted", "temperature, own", "top-p, own"]
    zero = bias[repaired].abs().max().max()
    smallest = bias[["stale", "temperature", "top-p", "top-p, weighted"]].mean().abs().min()
    return (
        bool(zero < 1e-12 and smallest > 0.005),
        f"repaired samplers: zero to 1e-12 in every state; the others: a mean of at least {smallest:.3f} nats",
    )


def stale_bias(logits: Tensor) -> Decision:
    """A step behind, E[D] is -alpha (p_k D_k - E_p[p D]) to first order, which is zero over k ~ p: an even bias."""
    p = logits.softmax(-1)
    linear = sampling.stale_slope(logits)
    bias = {alpha: sampling.stale_bias(logits, alpha) for alpha in (1e-3, -1e-3, 1e-2)}
    error = ((bias[1e-3] - bias[-1e-3]) / 2e-3 - linear).abs().max().item() / linear.abs().max().item()
    over_tokens = torch.linalg.vecdot(p, linear).abs().max().item()
    forth, back, further = (torch.linalg.vecdot(p, value).mean().item() for value in bias.values())
    slope = math.log10(further / forth)
    return (
        error < 1e-4 and over_tokens < 1e-15 and abs(back / forth - 1) < 0.01 and abs(slope - 2) < 0.01,
        f"the linear part is the formula to {error:.0e} of its size, and zero to 1e-15 over k ~ p; there steps of "
        f"-0.001 and +0.001 bias D alike (ratio {back / forth:.3f}), by {forth / 1e-6:.3f} alpha^2 nats "
        f"(slope {slope:.2f})",
    )


def one_pass_curvature(sizes: Sequence[int], *, states: int, seed: int) -> Decision:
    """The coefficient of one pass over the vocabulary is the quadratic form, and leaves an error of order alpha^3."""
    worst, slopes = 0.0, {}
    for size in sizes:
        z, k = random_policies(states, size, seed=seed)
        one_pass = token_statistics(z, k, curvature=True).curvature
        quadratic = theory.second_order_change(z, theory.grpo_logit_update(z, k, 1.0))
        worst = max(worst, (one_pass - quadratic).abs().max().item())
        left = []
        for step in SMALL_STEPS:
            delta = theory.grpo_logit_update(z, k, step)
            two_orders = theory.first_order_change(z, delta) + step**2 * one_pass
            left.append((theory.exact_change(z, delta) - two_orders).norm().item())
        slopes[size] = log_log_slope(SMALL_STEPS, left)
    return (
        worst < 1e-12 and all(abs(slope - 3) < 0.1 for slope in slopes.values()),
        "the one-pass coefficient is the quadratic form to 1e-12; slopes of what is left: " + _by_size(slopes),
    )


def exact_remainder(sizes: Sequence[int], *, states: int, seed: int) -> Decision:
    """-S . delta + R is the recomputed change of entropy at every step."""
    error = 0.0
    for size in sizes:
        z, k = random_policies(states, size, seed=seed)
        for step in (0.01, 0.1, 1.0, 5.0, 1000.0):
            for delta in (theory.grpo_logit_update(z, k, step), theory.grpo_logit_update(z, k, -step)):
                change = theory.first_order_change(z, delta) + remainder.remainder(z, delta)
                error = max(error, (theory.exact_change(z, delta) - change).abs().max().item() / max(step, 1))
    return error < 1e-10, (
        f"on random policies of up to {max(sizes):,} tokens and steps up to 1,000 both ways it agrees with the "
        "recomputed entropy to 1e-10 nats per unit of step"
    )


def remainder_bound(adversaries: pd.DataFrame, *, states: int, seed: int) -> Decision:
    """Every step of the proof holds and its constants are reached, the bound is their sum, and no policy exceeds it.

    Args:
        adversaries: alpha, vocabulary, remainder and span of the worst policies that a search found.
    """
    gap, reached = -np.inf, {}
    for size in (2, 3, 10, 200):
        for logits, direction in proof_cases(size, states=states, seed=seed):
            for name, (left, right) in remainder.steps_of_the_proof(logits, direction).items():
                gap = max(gap, (left - right).max().item())
                reached[name] = max(reached.get(name, 0.0), (left / right.clamp(min=1e-300)).max().item())
            added = _sum_of_the_proof(logits, direction)
            bound = 2 * remainder.remainder_bound(1.0, size, span=1.0)
            gap = max(gap, abs(added - bound))
            for alpha in (0.01, 1.0, 20.0):
                for delta in (alpha * direction, -alpha * direction):
                    bounds = remainder.remainder_bound(alpha, size, span=remainder.span(logits, direction))
                    gap = max(gap, (remainder.remainder(logits, delta).abs() - bounds).max().item())
    share = adversaries.remainder.abs() / [
        remainder.remainder_bound(a, int(v), span=s)
        for a, v, s in zip(adversaries.alpha, adversaries.vocabulary, adversaries.span)
    ]
    sharpest = {
        digits: abs(remainder.sharpest_remainder(1e-3, digits * math.log(10)))
        / remainder.remainder_bound(1e-3, 10**digits + 1, span=1.0)
        for digits in (5, 100)
    }
    tight = (
        min(reached[name] for name in ("mean f <= 1/4", "tau <= 1 / (6 sqrt 3)")),
        reached["tau log(mean f / tau) <= 1 / (4 e)"],
    )
    return (
        bool(gap < 1e-12 and tight[0] > 0.999 and tight[1] > 0.85 and share.max() <= 1 and 0.98 < sharpest[100] <= 1),
        f"all steps of the proof hold and add up to the bound; the worst GRPO steps found reach {share.min():.0%} to "
        f"{share.max():.0%} of it, pushes of one logit {sharpest[5]:.0%} at V = 10^5 and {sharpest[100]:.0%} at 10^100",
    )


def proof_cases(size: int, *, states: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(logits, direction) pairs, each (n, size): random policies and those for which steps of the proof are sharp.

    Directions: e_k - p of the policy itself and of another one (a path may start there), e_k; with one token of 0.5,
    (3 - sqrt 3) / 6, (3 + sqrt 3) / 6 or 0.355 against an even rest.
    """
    z, k = random_policies(states, size, seed=seed)
    start, token = random_policies(states, size, seed=seed + 1)
    one = torch.zeros(states, size, dtype=torch.float64)
    one[:, 0] = 1.0
    p = torch.tensor([0.5, (3 - math.sqrt(3)) / 6, (3 + math.sqrt(3)) / 6, 0.355], dtype=torch.float64)
    sharp = torch.zeros(len(p), size, dtype=torch.float64)
    sharp[:, 0] = p.logit() + math.log(size - 1)
    own, other = theory.grpo_logit_update(z, k, 1.0), theory.grpo_logit_update(start, token, 1.0)
    return [(z, own), (z, other), (z, one), (sharp, one[: len(p)])]


def _sum_of_the_proof(logits: Tensor, direction: Tensor) -> float:
    steps = remainder.steps_of_the_proof(logits, direction)
    spread, contrast, mixing = (
        steps[name][1].max().item()
        for name in ("mean f <= 1/4", "tau <= 1 / (6 sqrt 3)", "tau log(mean f / tau) <= 1 / (4 e)")
    )
    return spread + mixing + contrast * math.log(logits.shape[-1] - 1)


def radii_of_tokens(radii: pd.DataFrame) -> Decision:
    """The median trust radius is above 1, and |D / Q| tells the small ones (see `verification.radius_table`)."""
    small = radii[radii.radius < 0.3]
    ratio = small.second_order / small.radius
    return (
        radii.radius.median() > 1
        and ratio.between(0.8, 1.25).mean() > 0.9
        and abs(ratio.median() - 1) < 0.1
        and len(small) > 9,
        f"{len(radii)} sampled tokens: median radius {radii.radius.median():.1f}, below 0.1 for "
        f"{(radii.radius < 0.1).mean():.1%}; of the {len(small)} radii below 0.3, |D / Q| tells "
        f"{ratio.between(0.8, 1.25).mean():.0%} to within a quarter, {ratio.median():.2f} of the radius at the median",
    )


def group_gain(logits: Tensor, rewards: Tensor, sizes: Sequence[int]) -> Decision:
    """The gain, and what filtering leaves of E[D], are those of all V^G groups, for each variant, state and size.

    Args:
        logits (states, V); rewards (V,) of 0 and 1, of the tokens.
    """
    worst, twins = 0.0, []
    for variant, size, state in itertools.product(batches.VARIANTS.values(), sizes, logits):
        rate = (state.softmax(-1) * rewards).sum().item()
        exact = batches.enumerated(variant, state, rewards, size)
        law = batches.gain(variant, rate, size) * exact["covariance"]
        bias = batches.filtered_mean(rate, size) * exact["covariance"] * variant.filtered
        worst = max(worst, abs(exact["mean_ad"] - law), abs(exact["mean_d"] - bias))
        twins.append(abs(exact["mean_ad"] - law * size / (size - 1)) / abs(law))
    return (
        worst < 1e-12 and min(twins) > 0.1,
        f"sums over all V^G groups (V = {logits.shape[-1]}, G = {', '.join(map(str, sizes))}) and the gain differ by "
        f"less than 1e-12 in all {len(batches.VARIANTS)} variants; without the factor 1 - 1/G they differ by "
        f"{min(twins):.0%} or more",
    )


def gain_of_responses(responses: pd.DataFrame, cut: pd.DataFrame) -> Decision:
    """The recorded mean of A T is the formula's for the groups as they fell, and all smaller groups have their gain.

    Args:
        responses: as `batches.response_table`, in groups of eight; cut: their `batches.subgroup_table`, with size 8.
    """
    recorded = (responses["advantage"] * responses["total"]).groupby([responses["seed"], responses["step"]]).mean()
    whole = cut[(cut["variant"] == "standardised") & (cut["size"] == 8)].set_index(["seed", "step"])["formula"]
    gap = (cut["measured"] - cut["formula"]).abs().max()
    off, population = (recorded / whole - 1).abs().max(), (recorded / whole / np.sqrt(8 / 7) - 1).abs().min()
    return (
        bool(gap < 1e-12 and off < 1e-3 < 0.05 < population and (whole > 0.01).all()),
        f"mean of A T of {len(responses):,} responses in {len(whole)} batch{'es' * (len(whole) > 1)} within {off:.1e} "
        f"of the formula's (population deviation: {population:.0%} off); all subgroups of "
        f"{', '.join(map(str, sorted(cut['size'].unique())))} to 1e-12",
    )


def _by_size(slopes: dict[int, float]) -> str:
    return ", ".join(f"{slope:.2f} (V = {size:,})" for size, slope in slopes.items())
