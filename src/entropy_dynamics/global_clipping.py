"""Clip_B and Clip_V over a batch that is split over processes: each masks its part as the whole batch would be masked.

One sum over processes gives the mean and deviation of S and D; a cap on the masked tokens takes one gather more. A
process that judged its own tokens by its own deviation would mask others.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from entropy_dynamics import clipping
from entropy_dynamics.token_statistics import TokenStatistics

METHODS = ("clip_b", "clip_v")
Collective = Callable[[Tensor], Tensor]


def alone(x: Tensor) -> Tensor:
    """The collective operation of a single process."""
    return x


@dataclass(frozen=True)
class Moments:
    """Of all response tokens of the batch, on all processes; deviations are the population's, in nats."""

    tokens: int
    mean_s: float
    sigma_s: float
    mean_d: float
    sigma_d: float
    cov_a_d: float  # Cov(A, D), whose negative is the change of mean entropy per unit of effective step at r = 1


def moments(statistics: TokenStatistics, advantages: Tensor, mask: Tensor, *, reduce: Collective = alone) -> Moments:
    """The moments of a batch from float64 sums, added up over processes by one `reduce`.

    Args:
        statistics, advantages, mask: of this process, as in `clipping.clip_b`.
        reduce: sums a tensor over processes.

    Raises:
        ValueError: shapes that do not fit, or statistics or advantages of response tokens that are not finite.
    """
    for values in (statistics.discriminator, statistics.centred):
        clipping.check_batch(values, advantages, mask)
    s, d, a = (x.expand(mask.shape)[mask].double() for x in (statistics.discriminator, statistics.centred, advantages))
    terms = (torch.ones_like(s), s, s * s, d, d * d, a, a * d)
    n, *sums = reduce(torch.stack([term.sum() for term in terms])).tolist()
    if not n:
        return Moments(0, *[0.0] * 5)
    mean_s, square_s, mean_d, square_d, mean_a, mean_a_d = (total / n for total in sums)
    sigma_s, sigma_d = (
        math.sqrt(max(0.0, square - mean**2)) for square, mean in ((square_s, mean_s), (square_d, mean_d))
    )
    return Moments(int(n), mean_s, sigma_s, mean_d, sigma_d, mean_a_d - mean_a * mean_d)


def keep(
    method: str,
    statistics: TokenStatistics,
    advantages: Tensor,
    mask: Tensor,
    batch: Moments,
    *,
    mu: float,
    reading: str = "released",
    max_fraction: float | None = None,
    gather: Collective = alone,
    rank: int = 0,
) -> Tensor:
    """`clipping.clip_b` or `clipping.clip_v` of the whole batch, for the tokens of this process.

    Args:
        method: "clip_b" or "clip_v"; other arguments as there, `max_fraction` for Clip_V only.
        batch: the moments of the whole batch.
        gather: stacks the tensors (n,) of all processes into (processes n,), in the order of their ranks.
        rank: of this process.

    Returns:
        bool, of the mask's shape. Where |D| ties at the cap, tokens of lower ranks go first.

    Raises:
        ValueError: an unknown method, a cap with Clip_B, and whatever `clipping.clip_b` and `clipping.clip_v` refuse.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    if method == "clip_b" and max_fraction is not None:
        raise ValueError(f"max_fraction is {max_fraction}, but Clip_B has no cap; leave it out")
    values, sigma = statistics.discriminator.double() - batch.mean_s, batch.sigma_s
    if method == "clip_v":
        values, sigma = statistics.centred.double(), batch.sigma_d
    clipping.check(values, advantages, mask, mu, reading, max_fraction)
    threshold = mu * sigma if sigma >= clipping.SMALLEST_SIGMA else math.inf
    outliers = values.abs() > threshold
    if reading == "released":
        outliers = (advantages < 0) & (values < -threshold)
    outliers &= mask
    if max_fraction is not None:
        outliers = _most_violating(
            values.abs(), outliers, max(1, math.floor(max_fraction * batch.tokens)), gather, rank
        )
    return mask & ~outliers


def keep_all_but(
    method: str,
    share: float,
    statistics: TokenStatistics,
    advantages: Tensor,
    mask: Tensor,
    *,
    reduce: Collective = alone,
    gather: Collective = alone,
    rank: int = 0,
) -> Tensor:
    """Mask a share of the whole batch's penalised tokens (A < 0), in the method's order: `methods.masked_share`.

    Args:
        method: "clip_b" for the lowest S first, "clip_v" for the lowest D first.
        share: 0 to 1; other arguments as in `moments` and `keep`.

    Returns:
        bool, of the mask's shape: the tokens of this process that keep their gradient.
    """
    if method not in METHODS or not 0 <= share <= 1:
        raise ValueError(f"method {method!r}, share {share}: expected {' or '.join(METHODS)} and 0 to 1")
    values = statistics.discriminator if method == "clip_b" else statistics.centred
    clipping.check_batch(values, advantages, mask)
    penalised = mask & (advantages < 0)
    count = round(share * int(reduce(penalised.sum())))
    return mask & ~_most_violating(-values.double(), penalised, count, gather, rank)


def _most_violating(size: Tensor, outliers: Tensor, allowed: int, gather: Collective, rank: int) -> Tensor:
    """Those of the outliers that are among the `allowed` largest of all processes."""
    places = outliers.flatten().nonzero().squeeze(-1)
    order = size.flatten()[places].argsort(descending=True, stable=True)[:allowed]
    own = size.new_full((allowed,), -torch.inf)
    own[: len(order)] = size.flatten()[places[order]]
    everyone = gather(own)
    first = everyone.argsort(descending=True, stable=True)[:allowed]
    chosen = first[(first >= rank * allowed) & (first < (rank + 1) * allowed)] - rank * allowed
    chosen = chosen[chosen < len(order)]
    return torch.zeros_like(outliers).flatten().index_fill(0, places[order[chosen]], True).view_as(outliers)
