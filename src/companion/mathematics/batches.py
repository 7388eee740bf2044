r"""What a batch does on average: how the way advantages are made of a group's rewards scales the entropy change.

A group has G independent responses to one prompt. Response i has reward R_i and T_i, the sum of D over its tokens
(T = D for a response of one token), with E[T] = 0 (Corollary 3.5). To first order, gradient ascent with rate eta on the
sum over tokens of A log p changes the entropies of its states by -eta sum_i A_i T_i in all. Each term has the mean

    E[A T] = gain Cov(R, T),

where the gain depends on the group's size and, with rewards 0 and 1, on the rate q of right responses, on nothing else.

Derivation. With A_i = (R_i - mean R) / scale,

    sum_i A_i T_i = 1/G sum_{i<j} (R_i - R_j)(T_i - T_j) / scale.

With rewards 0 and 1 only pairs of a right and a wrong response count, and for those the scale depends on m, how many of
the other G - 2 are right, which is independent of the pair. Since E[(R_i - R_j)(T_i - T_j)] = 2 Cov(R, T) and there are
G (G - 1) / 2 pairs, the mean over the group is

    E[1/G sum_i A_i T_i] = (1 - 1/G) E[1 / scale(m + 1 right)] Cov(R, T),    m ~ Binomial(G - 2, q).

A constant scale asks nothing of the rewards: 1 is GRPO without the deviation (Dr. GRPO, arXiv 2503.20783),
(G - 1) / G the leave-one-out baseline (RLOO, arXiv 2402.14740). A group whose rewards are all alike adds nothing, so
drawing groups until they differ (dynamic sampling, DAPO, arXiv 2503.14476) divides by 1 - q^G - (1 - q)^G.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import binom, hypergeom
from torch import Tensor

from entropy_dynamics import grpo, theory


@dataclass(frozen=True)
class Variant:
    """A way to make advantages of a group's rewards."""

    advantages: Callable[[Tensor], Tensor]  # rewards (..., G) to advantages (..., G)
    scale: Callable[[np.ndarray, int], np.ndarray]  # what R - mean R is divided by, of n right in a group of G
    filtered: bool = False  # groups whose rewards are all alike are drawn again


def _centred(rewards: Tensor) -> Tensor:
    return rewards - rewards.mean(-1, keepdim=True)


def _leave_one_out(rewards: Tensor) -> Tensor:
    others = (rewards.sum(-1, keepdim=True) - rewards) / (rewards.shape[-1] - 1)
    return rewards - others


def _standardised(rewards: Tensor) -> Tensor:
    return grpo.group_advantages(rewards, eps=0.0)


def _sample_deviation(right: np.ndarray, size: int) -> np.ndarray:
    return np.sqrt(right * (size - right) / (size * (size - 1)))


VARIANTS = {
    "mean only": Variant(_centred, lambda right, size: np.ones(len(right))),
    "leave one out": Variant(_leave_one_out, lambda right, size: np.full(len(right), 1 - 1 / size)),
    "standardised": Variant(_standardised, _sample_deviation),
    "mean only, filtered": Variant(_centred, lambda right, size: np.ones(len(right)), filtered=True),
    "standardised, filtered": Variant(_standardised, _sample_deviation, filtered=True),
}


def gain(variant: Variant, rate: float, size: int) -> float:
    """E[A T] / Cov(R, T) for groups of `size` >= 2 whose responses are right (reward 1) with probability `rate`.

    Without unit where the scale is constant; per unit of reward where it is the deviation.
    """
    others = binom.pmf(np.arange(size - 1), size - 2, rate)
    value = _gain_of_pairs(variant, others)
    return value / chance_of_a_mixed_group(rate, size) if variant.filtered else value


def _gain_of_pairs(variant: Variant, others: np.ndarray) -> float:
    """(1 - 1/G) E[1 / scale], with the chances (G - 1,) that 0, 1, ... of the other G - 2 responses are right."""
    size = len(others) + 1
    return float((1 - 1 / size) * np.sum(others / variant.scale(np.arange(1, size), size)))


def chance_of_a_mixed_group(rate: float, size: int) -> float:
    """1 - q^G - (1 - q)^G: the probability that a group has a right and a wrong response."""
    return float(-np.expm1(np.logaddexp(size * np.log(rate), size * np.log1p(-rate))))


def filtered_mean(rate: float, size: int) -> float:
    """E[T | the group is mixed] / Cov(R, T): the mean of D that filtering leaves, where Corollary 3.5 has zero.

    E[T] = 0 is the sum of what mixed and unmixed groups add to it, and the unmixed ones add E[T R] q^(G-1) +
    E[T (1 - R)] (1 - q)^(G-1) = Cov(R, T) (q^(G-1) - (1 - q)^(G-1)).
    """
    return ((1 - rate) ** (size - 1) - rate ** (size - 1)) / chance_of_a_mixed_group(rate, size)


def gains(rates: Sequence[float], sizes: Sequence[int]) -> pd.DataFrame:
    """The gain of every variant: variant, rate, size, gain, and speed = gain q (1 - q).

    With rewards 0 and 1, Cov(R, T) = q (1 - q) (E[T | right] - E[T | wrong]), so the speed is what the entropy falls by
    per unit of eta and of that gap.
    """
    rows = [
        {"variant": name, "rate": rate, "size": size, "gain": gain(variant, rate, size)}
        for (name, variant), rate, size in itertools.product(VARIANTS.items(), rates, sizes)
    ]
    return pd.DataFrame(rows).assign(speed=lambda t: t["gain"] * t["rate"] * (1 - t["rate"]))


def enumerated(variant: Variant, logits: Tensor, rewards: Tensor, size: int) -> dict[str, float]:
    """E[A D] and E[D] of a one-token policy by a sum over all V^G groups, and Cov(R, D); nats.

    Args:
        logits, rewards: (V,), of one state and of its tokens.
        size: G; V^G groups are looked at.
    """
    p, s = logits.softmax(-1), theory.discriminator(logits)
    d = s - theory.expected_discriminator(logits)
    groups = torch.cartesian_prod(*[torch.arange(len(logits))] * size)
    chances = p[groups].prod(-1)
    if variant.filtered:
        chances = chances * (rewards[groups].amax(-1) > rewards[groups].amin(-1))
        chances = chances / chances.sum()
    advantages = variant.advantages(rewards[groups])
    return {
        "mean_ad": (chances * (advantages * d[groups]).mean(-1)).sum().item(),
        "mean_d": (chances * d[groups].mean(-1)).sum().item(),
        "covariance": (p * rewards * d).sum().item(),
    }


def response_table(tokens: pd.DataFrame) -> pd.DataFrame:
    """The responses of a table of tokens that were sampled from the policy itself, in groups that hold both kinds.

    Args:
        tokens: seed, step, problem, row, centred and advantage of each token, standardised within the problem.

    Returns:
        seed, step, problem, row, total (sum of D, nats), advantage, right (whether the advantage is positive).
    """
    keys = ["seed", "step", "problem", "row"]
    table = tokens.groupby(keys, as_index=False).agg(total=("centred", "sum"), advantage=("advantage", "first"))
    table["right"] = table["advantage"] > 0
    return table[table["advantage"] != 0].reset_index(drop=True)


def subgroup_table(responses: pd.DataFrame, sizes: Sequence[int]) -> pd.DataFrame:
    """What smaller groups would have done with the same responses: measured by forming them all, and by the formula.

    Every group of a batch (seed, step) is cut into all its subgroups of each size. Their mean of A T is measured with
    `Variant.advantages`; by the formula it is the sample covariance of the whole group, times the gain with m drawn
    without replacement. Both are unbiased for the mean of A T in a subgroup of a mixed group of that many.

    Returns:
        seed, step, variant, size, measured and formula: means over the groups of the batch (nats).
    """
    rows = []
    for keys, group in responses.groupby(["seed", "step", "problem"]):
        rewards, totals = (torch.tensor(group[name].to_numpy(dtype=float)) for name in ("right", "total"))
        n, right = len(group), int(rewards.sum())
        covariance = torch.stack([rewards, totals]).cov()[0, 1].item()
        for size in sizes:
            chosen = torch.tensor(list(itertools.combinations(range(n), size)))
            others = hypergeom.pmf(np.arange(size - 1), n - 2, right - 1, size - 2)
            for name, variant in VARIANTS.items():
                if not variant.filtered:
                    measured = (variant.advantages(rewards[chosen]) * totals[chosen]).mean().item()
                    formula = _gain_of_pairs(variant, others) * covariance
                    rows.append((*keys[:2], name, size, measured, formula))
    table = pd.DataFrame(rows, columns=["seed", "step", "variant", "size", "measured", "formula"])
    return table.groupby(["seed", "step", "variant", "size"], as_index=False, sort=False).mean()
