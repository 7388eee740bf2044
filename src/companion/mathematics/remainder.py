r"""How far Theorem 3.3 reaches: what its first order leaves out, how large that can be, and where it turns the sign.

With q = softmax(z + delta), u_i = log(q_i / p_i) and psi(u) = e^u - 1 - u, the entropy change is exactly

    H(q) - H(p) = -S . delta + R,        R = -KL(q || p) - sum_i S_i psi(u_i).

Notebook 04 proves this, and a bound on R for every change of the logits.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import differential_evolution
from torch import Tensor

from entropy_dynamics import theory

# The constants of the proof, in units of the squared span. The first two are the least for their steps.
SPREAD = 1 / 4  # the variance of a variable in [0, 1]
CONTRAST = 1 / (6 * math.sqrt(3))  # half the mean absolute deviation of its squared deviation
MIXING = 1 / (4 * math.e)  # the most that -tau log(4 tau) can be; tau log(mean f / tau) gets to 0.89 of it
STEPS_PER_DECADE = 6  # of the search for a trust radius
PIECE = 2**17  # numbers of logits that are searched at a time; larger arrays cost more in new pages than in arithmetic


def remainder(logits: Tensor, delta: Tensor) -> Tensor:
    """R, the entropy change beyond the first order, shape (...), in nats: `exact_change` minus `first_order_change`.

    Finite for finite changes of any size.

    Args:
        logits, delta: (..., V).
    """
    p, log_p = theory.log_policy(logits)
    q = (logits + delta).softmax(-1)
    u = delta - (logits.log_softmax(-1) + delta).logsumexp(-1, keepdim=True)
    near = u.clamp(-1, 1)
    moved = torch.where(u.abs() <= 1, p * torch.expm1(near), q - p)  # p (e^u - 1)
    curved = torch.where(u.abs() <= 1, p * theory.psi(near), q - p - p * u)  # p psi(u)
    kl = torch.linalg.vecdot(moved, u) - curved.sum(-1)
    return -kl - torch.linalg.vecdot(curved, log_p + theory.entropy(logits).unsqueeze(-1))


def span(logits: Tensor, delta: Tensor) -> Tensor:
    """The largest minus the smallest of `delta` over the tokens with mass, shape (...).

    For delta = alpha (e_k - p) it is |alpha| (1 - p_k + the largest of the other p), at most 2 |alpha| (1 - p_k).

    Args:
        logits, delta: (..., V).
    """
    masked = logits == -torch.inf
    return delta.masked_fill(masked, -torch.inf).amax(-1) - delta.masked_fill(masked, torch.inf).amin(-1)


def remainder_bound(alpha: float | Tensor, vocabulary: int, *, span: float | Tensor = 2.0) -> float | Tensor:
    """(alpha span)^2 [1/8 + 1/(8 e) + log(V - 1) / (12 sqrt 3)] = (alpha span)^2 [0.1710 + 0.0481 log(V - 1)], in nats.

    |R| of a step alpha v never exceeds it, whatever the policy over `vocabulary` tokens and whatever the size and sign
    of alpha, where `span` is (at least) the largest minus the smallest entry of v among the tokens with mass. For a
    GRPO step v = e_k - p that is 1 - p_k + the largest other probability; 2 serves every token of every policy. For any
    other change of the logits take alpha = 1 and its `span`. Proven in notebook 04.

    Raises:
        ValueError: a vocabulary of fewer than two tokens, or a negative span.
    """
    if vocabulary < 2:
        raise ValueError(f"vocabulary is {vocabulary}, expected at least 2 tokens")
    if (torch.as_tensor(span) < 0).any():
        raise ValueError(f"span is {span}, expected no negative number")
    return 0.5 * (alpha * span) ** 2 * (SPREAD + MIXING + CONTRAST * math.log(vocabulary - 1))


def steps_of_the_proof(logits: Tensor, direction: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Each inequality of the proof, name -> (smaller side, larger side), shape (...) each, at q = softmax(logits).

    The names are those of notebook 04, in units of the squared span: x is `direction` scaled to [0, 1], f its squared
    deviation from the mean under q; tau is half the mean of |f - mean f|; hi and lo are the tokens with f above and
    below its mean, E_hi and E_lo means over them with weights q |f - mean f|. The second derivative of H is
    -mean f - Cov(log q, f). The bound is half the sum of the larger sides of mean f, of tau times log(V - 1), and of
    tau log(mean f / tau).

    Args:
        logits, direction: (..., V); the span of `direction` must not be zero, masked tokens are left out.
    """
    masked = logits == -torch.inf
    q, log_q = theory.log_policy(logits)
    size = math.log(logits.shape[-1] - 1)
    lowest = direction.masked_fill(masked, torch.inf).amin(-1, keepdim=True)
    x = ((direction - lowest) / span(logits, direction).unsqueeze(-1)).masked_fill(masked, 0.0)
    f = (x - torch.linalg.vecdot(q, x).unsqueeze(-1)) ** 2
    mean = torch.linalg.vecdot(q, f)
    apart = q * (f - mean.unsqueeze(-1))
    tau = 0.5 * apart.abs().sum(-1)
    on_hi, on_lo = (torch.linalg.vecdot(weight, log_q) for weight in (apart.clamp(min=0), (-apart).clamp(min=0)))
    covariance = torch.linalg.vecdot(q * (log_q + theory.entropy(logits).unsqueeze(-1)), f)
    some = tau.clamp(min=1e-300)  # where tau is zero, so is every term with a logarithm of it
    gap = (covariance - (on_hi - on_lo)).abs()
    return {
        "mean f <= 1/4": (mean, torch.full_like(mean, SPREAD)),
        "tau <= 1 / (6 sqrt 3)": (tau, torch.full_like(tau, CONTRAST)),
        "|Cov(log q, f) - tau (E_hi log q - E_lo log q)| <= 0": (gap, torch.zeros_like(gap)),
        "-tau E_lo log q <= tau (log(V - 1) + log(mean f / tau))": (-on_lo, tau * (size + (mean / some).log())),
        "-tau E_hi log q <= tau (log(V - 1) + log(1 / tau))": (-on_hi, tau * (size - some.log())),
        "tau log(mean f / tau) <= 1 / (4 e)": (tau * (mean / some).log(), torch.full_like(tau, MIXING)),
        "tau log(1 / tau) <= 1/4 + 1 / (4 e)": (-tau * some.log(), torch.full_like(tau, SPREAD + MIXING)),
    }


class Adversary(NamedTuple):
    """The policy with the largest |R| that a search found for a step alpha (e_k - p)."""

    remainder: float  # R, nats
    probability: float  # p_k
    largest_other: float  # the largest probability among the others

    @property
    def span(self) -> float:
        """Of e_k - p."""
        return 1 - self.probability + self.largest_other


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
    return float(-(mass * np.exp(u) * u).sum() - (count * s * (np.expm1(u) - u)).sum())


def sharpest_remainder(eps: float, log_others: float) -> float:
    """R of a push eps of one logit, for which |R| / eps^2 over the vocabulary comes nearest to the bound; in nats.

    The token has p = (3 - sqrt 3) / 6 = 0.211, and the others, e^log_others of them, share the rest evenly.
    """
    p = (3 - math.sqrt(3)) / 6
    g = (1 - p) * (math.log(p / (1 - p)) + log_others)  # H + log p
    x = p * math.expm1(eps)
    kl = p * math.exp(eps) * eps / (1 + x) - math.log1p(x)
    return -x * g / (1 + x) - kl + eps * p * g


def trust_radius(logits: Tensor, token: Tensor, *, smallest: float = 1e-3, largest: float = 100.0) -> Tensor:
    """The smallest |alpha| at which a step alpha (e_k - p) moves entropy against the sign of -alpha D; shape (...).

    Looked for from `smallest` to `largest`, for rewards and penalties, at points 1/6 of a decade apart and at the
    lowest point of every dip that the slopes at two neighbouring points betray, then refined to 0.1 %. Only a change of
    sign within two more turns between two neighbouring points would go unseen. inf where the sign is right throughout,
    `smallest` where it is wrong there already.

    Args:
        logits: (..., V), made float64 if they are not; token: (...).

    Raises:
        ValueError: a `largest` above 350: logits move by up to twice that, and e^710 does not fit into float64.
    """
    if not 0 < smallest < largest <= 350:
        raise ValueError(f"smallest is {smallest} and largest {largest}, expected 0 < smallest < largest <= 350")
    z, k = logits.double().reshape(-1, logits.shape[-1]), token.reshape(-1)
    rows = max(1, PIECE // z.shape[-1])
    radii = [_radius(*piece, smallest, largest) for piece in zip(z.split(rows), k.split(rows))]
    return torch.cat(radii).reshape(token.shape)


class _Line:
    """Entropy of softmax(z + alpha (e_k - p)) over alpha, for states z (n, V) and tokens k (n,).

    What `theory.exact_change` and `theory.first_order_change` say of each point, but from one exponential for both.
    """

    def __init__(self, z: Tensor, k: Tensor):
        self.p, log_p = theory.log_policy(z)
        self.log_p_plus_h = log_p + theory.entropy(z).unsqueeze(-1)
        direction = theory.grpo_logit_update(z, k, 1.0)
        self.direction = direction - torch.linalg.vecdot(self.p, direction).unsqueeze(-1)  # softmax sees no constant

    def at(self, rows: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """H(alpha) - H(0) and dH / d alpha of the states `rows`, at one alpha each."""
        p, log_p_plus_h, direction = self.p[rows], self.log_p_plus_h[rows], self.direction[rows]
        step = alpha.unsqueeze(-1) * direction
        grown = torch.expm1(step)
        x = torch.linalg.vecdot(p, grown)  # q = p e^step / (1 + x)
        q_minus_p = p * (grown - x.unsqueeze(-1)) / (1 + x).unsqueeze(-1)
        kl = torch.linalg.vecdot(q_minus_p, step) - torch.log1p(x)
        change = -torch.linalg.vecdot(q_minus_p, log_p_plus_h) - kl
        q, log_q = p + q_minus_p, log_p_plus_h + step  # log q up to a constant
        mean = torch.linalg.vecdot(q, direction).unsqueeze(-1)
        return change, -torch.linalg.vecdot(q * log_q, direction - mean)  # identity 2 at q


def _radius(z: Tensor, k: Tensor, smallest: float, largest: float) -> Tensor:
    """`trust_radius` of the states z (n, V) and tokens k (n,)."""
    line = _Line(z, k)
    first = theory.first_order_change(z, theory.grpo_logit_update(z, k, 1.0))

    def look(rows: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Whether the sign is wrong at alpha, and whether entropy goes back there."""
        change, slope = line.at(rows, alpha)
        return change * first[rows] * alpha.sign() <= 0, slope * first[rows] < 0

    count = round(STEPS_PER_DECADE * np.log10(largest / smallest)) + 1
    radius = torch.full_like(first, torch.inf)
    for sign in (1.0, -1.0):
        low, high = torch.zeros_like(first), torch.full_like(first, torch.inf)
        back_before = torch.zeros_like(first, dtype=torch.bool)
        for size in torch.logspace(np.log10(smallest), np.log10(largest), count, dtype=z.dtype):
            rows = (high.isinf() & (low < radius)).nonzero().squeeze(-1)  # where no smaller failure is known
            point = size.repeat(len(rows))
            wrong, back = look(rows, sign * point)
            if (dip := back_before[rows] & ~back & ~wrong).any():
                some = rows[dip]
                _, bottom = _bisect(low[some], point[dip], lambda x, r=some, s=sign: ~look(r, s * x)[1])
                wrong[dip] = wrong_at_bottom = look(some, sign * bottom)[0]
                point[dip] = torch.where(wrong_at_bottom, bottom, point[dip])
            high[rows[wrong]], low[rows[~wrong]], back_before[rows] = point[wrong], point[~wrong], back
        rows = ((low > 0) & high.isfinite()).nonzero().squeeze(-1)
        _, high[rows] = _bisect(low[rows], high[rows], lambda x, r=rows, s=sign: look(r, s * x)[0])
        radius = torch.minimum(radius, high)
    return radius


def _bisect(low: Tensor, high: Tensor, is_beyond: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """`low` and `high`, 1/6 of a decade apart, within 0.1 % of where `is_beyond` changes."""
    for _ in range(9):
        middle = (low * high).sqrt()
        beyond = is_beyond(middle)
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    return low, high
