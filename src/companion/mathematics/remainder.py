r"""How far Theorem 3.3 reaches: what its first order leaves out, how large that can be, and where it turns the sign.

With q = softmax(z + delta), u_i = log(q_i / p_i) and psi(u) = e^u - 1 - u, the entropy change is exactly

    H(q) - H(p) = -S . delta + R,        R = -KL(q || p) - sum_i S_i psi(u_i).

Notebook 04 proves this, and from it the bound on R for a GRPO step alpha (e_k - p).
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import differential_evolution
from torch import Tensor

from entropy_dynamics import theory

GRID = 400  # points a side of the square over which the bound is maximised
MARGIN = 1.002  # for what lies between the points
STEPS_PER_DECADE = 6  # of the search for a trust radius


def remainder(logits: Tensor, delta: Tensor) -> Tensor:
    """R, the entropy change beyond the first order, shape (...), in nats: `exact_change` minus `first_order_change`.

    Args:
        logits, delta: (..., V).
    """
    p, _ = theory.log_policy(logits)
    growth = torch.linalg.vecdot(p, torch.expm1(delta)).unsqueeze(-1)
    u = delta - torch.log1p(growth)
    kl = torch.linalg.vecdot(p, u.exp() * u)
    return -kl - torch.linalg.vecdot(theory.discriminator(logits), torch.expm1(u) - u)


def remainder_bound(alpha: float, vocabulary: int) -> float:
    """A number that |R| of a step alpha (e_k - p) exceeds for no policy of `vocabulary` tokens and no token k; nats.

    The maximum over x = p_k and b = sum over the others of (p_i / (1 - x))^2 of the bound proven in notebook 04.

    Raises:
        ValueError: a vocabulary of fewer than two tokens.
    """
    if vocabulary < 2:
        raise ValueError(f"vocabulary is {vocabulary}, expected at least 2 tokens")
    x = (np.arange(GRID) + 0.5)[:, None] / GRID
    b = np.linspace(1 / (vocabulary - 1), 1, GRID)[None, :]
    return MARGIN * float(_bound_at(x, b, alpha, np.log(vocabulary - 1)).max())


def simple_remainder_bound(alpha: float, vocabulary: int) -> float:
    """alpha^2 (0.5 + 0.12 log V), for |alpha| <= 1 and V up to 10^7 at least `remainder_bound` (notebook 04); nats."""
    return alpha**2 * (0.5 + 0.12 * float(np.log(vocabulary)))


def _bound_at(x: np.ndarray, b: np.ndarray, alpha: float, log_others: float) -> np.ndarray:
    """The bound on |R| for given x and b; the names are those of the proof."""
    y, step = 1 - x, abs(alpha)
    pull = step * y**2 * (1 + b)  # alpha d, the largest u_k
    drift = step * y**2 * b  # how far the other tokens can be moved to one side
    back = step * (0.25 + x * y)  # and to the other
    grown = (np.exp(pull), np.exp(drift)) if alpha > 0 else (1.0, np.exp(back))  # q_k / p_k and q_i / p_i at most
    spread = grown[0] * x * (1 + b) ** 2 + grown[1] * y * b * (1 - b)
    curve = 0.5 * step**2 * y**2 * np.minimum(1, spread)  # alpha^2 W / 2, bounds KL and the convexity gap
    if alpha > 0:
        of_token, of_others = _psi(pull), np.maximum(_psi(drift), (back + curve) ** 2 / 2)
    else:
        of_token, of_others = (pull + curve) ** 2 / 2, np.maximum(_psi(back), (drift + curve) ** 2 / 2)
    odds = np.log(x / y)
    s_above = np.maximum(0, x * y * (_highest_entropy(b, log_others) + odds))
    s_below = np.maximum(0, -x * y * odds)
    others = _mass_of_discriminator(y * b, log_others) * of_others
    return np.maximum(curve + s_above * of_token, s_below * of_token) + others


def _psi(u: np.ndarray) -> np.ndarray:
    return np.expm1(u) - u


def _highest_entropy(b: np.ndarray, log_others: float) -> np.ndarray:
    """An upper bound on the entropy of V - 1 tokens whose largest probability is at least b."""
    inside = np.clip(b, 1e-12, 1 - 1e-12)
    own = -inside * np.log(inside) - (1 - inside) * np.log1p(-inside)
    return np.minimum(log_others, own + (1 - b) * log_others)


def _mass_of_discriminator(lowest: np.ndarray, log_others: float) -> np.ndarray:
    """What the sum of S_i over tokens with S_i > 0 is below, where their mass a is at least `lowest`.

    The maximum of a (1 - a) (log(V - 1) + log(a / (1 - a))) over such a.
    """
    a = np.linspace(0, 1, 20 * GRID + 1)[1:-1]
    values = np.maximum(0, a * (1 - a) * (log_others + np.log(a / (1 - a))))
    from_a_on = np.maximum.accumulate(values[::-1])[::-1]
    return from_a_on[np.maximum(np.searchsorted(a, lowest, side="right") - 1, 0).clip(max=len(a) - 1)]


class Adversary(NamedTuple):
    """The policy with the largest |R| that a search found for a step alpha (e_k - p)."""

    remainder: float  # R, nats
    probability: float  # p_k
    largest_other: float  # the largest probability among the others


def worst_remainder(alpha: float, vocabulary: int, *, seed: int = 0) -> Adversary:
    """The largest |R| / alpha^2 that differential evolution finds, times alpha^2, and where.

    The policies: token k, one more token of any probability, and two groups of equal tokens for the rest.

    Raises:
        ValueError: a vocabulary of fewer than four tokens.
    """
    if vocabulary < 4:
        raise ValueError(f"vocabulary is {vocabulary}, expected at least 4 tokens")

    def groups(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, other, share = 1 / (1 + np.exp(-position[:3]))
        few = int(np.clip(round(np.exp(position[3])), 1, vocabulary - 3))
        rest = (1 - x) * (1 - other)
        mass = np.array([x, (1 - x) * other, rest * share, rest * (1 - share)])
        return mass, np.array([1, 1, few, vocabulary - 2 - few])

    limits = [(-14, 14)] * 3 + [(0, np.log(vocabulary))]
    found = differential_evolution(
        lambda position: -abs(_remainder_of_groups(*groups(position), alpha)), limits, seed=seed, maxiter=200, tol=1e-8
    )
    mass, count = groups(found.x)
    return Adversary(_remainder_of_groups(mass, count, alpha), float(mass[0]), float((mass / count)[1:].max()))


def _remainder_of_groups(mass: np.ndarray, count: np.ndarray, alpha: float) -> float:
    """R for k = the first token of a policy whose group g has `count[g]` tokens of equal probability."""
    p = mass / count
    h = -(mass * np.log(p)).sum()
    s = p * (h + np.log(p))
    delta = alpha * ((np.arange(len(p)) == 0) - p)
    u = delta - np.log1p((mass * np.expm1(delta)).sum())
    return float(-(mass * np.exp(u) * u).sum() - (count * s * _psi(u)).sum())


def trust_radius(logits: Tensor, token: Tensor, *, smallest: float = 1e-3, largest: float = 100.0) -> Tensor:
    """The smallest |alpha| at which a step alpha (e_k - p) moves entropy against the sign of -alpha D; shape (...).

    Looked for from `smallest` to `largest` in steps of 1/6 of a decade, for rewards and penalties, then refined to
    0.1 %; inf where the sign is right throughout, `smallest` where it is wrong there already.

    Args:
        logits: (..., V), float64 recommended; token: (...).
    """
    direction = theory.grpo_logit_update(logits, token, 1.0)
    first = theory.first_order_change(logits, direction)

    def wrong(alpha: Tensor) -> Tensor:
        return theory.exact_change(logits, alpha.unsqueeze(-1) * direction) * first * alpha.sign() <= 0

    count = round(STEPS_PER_DECADE * np.log10(largest / smallest)) + 1
    radius = torch.full_like(first, torch.inf)
    for sign in (1.0, -1.0):
        low, high = torch.zeros_like(first), torch.full_like(first, torch.inf)
        for alpha in torch.logspace(np.log10(smallest), np.log10(largest), count, dtype=logits.dtype):
            is_wrong = wrong(torch.full_like(first, sign * alpha.item()))
            high = torch.where(is_wrong & high.isinf(), alpha, high)
            low = torch.where(high.isinf(), alpha, low)
        between = (low > 0) & high.isfinite()
        for _ in range(9):  # 1/6 of a decade halved nine times
            middle = torch.where(between, (low * high).sqrt(), 1.0)
            is_wrong = wrong(sign * middle)
            high = torch.where(between & is_wrong, middle, high)
            low = torch.where(between & ~is_wrong, middle, low)
        radius = torch.minimum(radius, high)
    return radius
