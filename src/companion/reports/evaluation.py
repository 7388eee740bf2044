"""Avg@K, Pass@K, histograms of pass rates, and intervals over problems and seeds."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats
from scipy.special import gammaln


def pass_at_k(n: np.ndarray | int, c: np.ndarray | int, k: int) -> np.ndarray:
    """The unbiased estimate 1 - C(n - c, k) / C(n, k) of the chance that one of k samples is right.

    Args:
        n: samples drawn, n >= k.
        c: how many of them were right, 0 <= c <= n; n and c broadcast.

    Returns:
        float array of the broadcast shape, 1 where n - c < k. Source: Chen et al., arXiv 2107.03374, eq. 1.

    Raises:
        ValueError: k below 1 or above n, or c outside 0 to n.
    """
    n, c = np.broadcast_arrays(np.asarray(n), np.asarray(c))
    if k < 1 or (n < k).any():
        raise ValueError(f"k is {k}, expected 1 to n = {n.min()}")
    if (c < 0).any() or (c > n).any():
        raise ValueError(f"c ranges from {c.min()} to {c.max()}, expected 0 to n = {n.max()}")
    wrong = n - c
    certain = wrong < k
    safe = np.where(certain, k, wrong)
    log_ratio = gammaln(safe + 1) - gammaln(safe - k + 1) - gammaln(n + 1) + gammaln(n - k + 1)
    return np.where(certain, 1.0, -np.expm1(np.minimum(log_ratio, 0.0)))


def avg_at_k(n: np.ndarray | int, c: np.ndarray | int) -> np.ndarray:
    """The mean reward of each problem, c / n."""
    return np.asarray(c) / np.asarray(n)


def pass_rate_histogram(n: int, c: np.ndarray) -> np.ndarray:
    """Share of the problems with 0, 1, ... n right answers out of n: float (n + 1,), sums to 1."""
    c = np.asarray(c)
    if c.size == 0 or c.min() < 0 or c.max() > n:
        raise ValueError(f"c must hold counts from 0 to n = {n}, got {c.tolist()[:5]}")
    return np.bincount(c, minlength=n + 1) / c.size


def polarization(pass_rates: np.ndarray) -> float:
    """Variance of the pass rates over its largest value at their mean: 0 all alike, 1 each all-solved or none-solved.

    NaN where the mean is 0 or 1, since then no rates can differ.
    """
    rates = np.asarray(pass_rates, dtype=float)
    if rates.size == 0 or (rates < 0).any() or (rates > 1).any():
        raise ValueError("pass rates must be a non-empty array within 0 to 1")
    mean = rates.mean()
    return float(rates.var() / (mean * (1 - mean))) if 0 < mean < 1 else float("nan")


def probability_of_improvement(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The share of all pairs (one of ours, one of theirs) in which ours is larger, ties counting half.

    The Mann-Whitney statistic over its largest value; Agarwal et al., arXiv 2108.13264.
    """
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if not ours.size or not theirs.size:
        raise ValueError(f"need values on both sides, got {ours.size} and {theirs.size}")
    difference = ours[:, None] - theirs[None, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and confidence limits of independent values, by Student's t; needs two or more."""
    values = np.asarray(values, dtype=float)
    if values.size < 2:
        raise ValueError(f"an interval needs two or more values, got {values.size}")
    mean, error = values.mean(), stats.sem(values)
    half = float(stats.t.ppf((1 + confidence) / 2, values.size - 1) * error)
    return float(mean), float(mean - half), float(mean + half)


def bootstrap_interval(
    scores: np.ndarray,
    *,
    statistic: Callable[[np.ndarray], float] = np.mean,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The statistic and its percentile interval when seeds and problems are both drawn anew.

    All seeds share their problems, so one draw of problems serves all drawn seeds (a crossed bootstrap): what makes a
    problem hard for one seed makes it hard for the others. With fewer than about eight seeds it is too narrow, as every
    bootstrap over few units is: use `t_interval` over the seeds there.

    Args:
        scores: (seeds, problems), for example Avg@K of each problem under each seed.
        statistic: from such an array to a number.

    Raises:
        ValueError: scores that are not two-dimensional and finite.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite and (seeds, problems), got shape {scores.shape}")
    rng = np.random.default_rng(seed)
    seeds, problems = scores.shape
    drawn = []
    for _ in range(resamples):
        rows = rng.integers(seeds, size=(seeds, 1))
        columns = rng.integers(problems, size=(1, problems))
        drawn.append(statistic(scores[rows, columns]))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(statistic(scores)), float(low), float(high)
