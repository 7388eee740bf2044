"""Clip_B and Clip_V over a batch that is split: each part is masked as the whole batch would be masked.

Parts are micro-batches, accumulation steps or processes. Their moments add up; over processes that takes one sum, and a
cap on the masked tokens one gather more. A part that judged its own tokens by its own deviation would mask others.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from entropy_dynamics import clipping
from entropy_dynamics.token_statistics import TokenStatistics

METHODS = ("clip_b", "clip_v")
ROUNDING = 2.0**-44  # a variance below this share of the mean square is the rounding of the sums
Collective = Callable[[Tensor], Tensor]


def alone(x: Tensor) -> Tensor:
    """The collective operation of a single process."""
    return x


@dataclass(frozen=True)
class Moments:
    """Sums of one statistic over response tokens. Those of parts add up: `first + second`, or `sum(parts, Moments())`.

    Adding is exact, so its order does not matter; each part's own sums are those of float64.
    """

    tokens: int = 0
    total: Fraction = Fraction()  # in the statistic's unit, nats for S and D
    squares: Fraction = Fraction()

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.tokens + other.tokens, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        """0 where there is no token."""
        return float(self.total / max(1, self.tokens))

    @property
    def sigma(self) -> float:
        """The population deviation; 0 where the sums are too coarse to tell it from 0."""
        n = max(1, self.tokens)
        square = self.squares / n
        variance = square - (self.total / n) ** 2
        return math.sqrt(variance) if variance > ROUNDING * square else 0.0


def moments(values: Tensor, mask: Tensor, *, reduce: Collective = alone) -> Moments:
    """The moments of a statistic, such as S for Clip_B and D for Clip_V, over the response tokens of a part.

    Args:
        values: of the mask's shape.
        mask: bool, the response tokens.
        reduce: sums a tensor over processes, all of which then get the same; without it the moments are this part's.

    Raises:
        ValueError: a mask that is not bool, shapes that do not fit, or values of response tokens that are not finite.
    """
    clipping.check_statistic(values, mask)
    x = values.expand(mask.shape)[mask].double()
    n, total, squares = reduce(torch.stack([x.new_tensor(x.numel()), x.sum(), (x * x).sum()])).tolist()
    return Moments(int(n), Fraction(total), Fraction(squares))


def keep(
    method: str,
    statistics: TokenStatistics | Tensor,
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
    """`clipping.clip_b` or `clipping.clip_v` of the whole batch, for the tokens of this part.

    Args:
        method: "clip_b" or "clip_v"; other arguments as there, `max_fraction` for Clip_V only.
        batch: the moments of the whole batch: of S for Clip_B, of D for Clip_V.
        gather: puts the tensors (n,) of all processes one after the other, in the order of their ranks: (processes n,)
            or (processes, n). Only a cap needs it.
        rank: of this process.

    Returns:
        bool, of the mask's shape. Where |D| ties at the cap, tokens of lower ranks go first.

    Raises:
        ValueError: an unknown method, a cap with Clip_B, a cap on a part without `gather`, and whatever
            `clipping.clip_b` and `clipping.clip_v` refuse.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    if method == "clip_b" and max_fraction is not None:
        raise ValueError(f"max_fraction is {max_fraction}, but Clip_B has no cap; leave it out")
    values = judged(method, statistics).double()
    if method == "clip_b":
        values = values - batch.mean
    clipping.check(values, advantages, mask, mu, reading, max_fraction)
    sigma = batch.sigma
    threshold = mu * sigma if sigma >= clipping.SMALLEST_SIGMA else math.inf
    outliers = values.abs() > threshold
    if reading == "released":
        outliers = (advantages < 0) & (values < -threshold)
    outliers &= mask
    if max_fraction is not None:
        _check_whole(int(mask.sum()), batch.tokens, gather)
        outliers = _most_violating(
            values.abs(), outliers, max(1, math.floor(max_fraction * batch.tokens)), gather, rank
        )
    return mask & ~outliers


def keep_all_but(
    method: str,
    share: float,
    statistics: TokenStatistics | Tensor,
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
        bool, of the mask's shape: the tokens of this process that keep their gradient. Parts that are not processes
        have to be put together first.

    Raises:
        ValueError: an unknown method, a share outside 0 to 1, `reduce` without `gather`, and whatever `clipping.clip_b`
            refuses.
    """
    if method not in METHODS or not 0 <= share <= 1:
        raise ValueError(f"method {method!r}, share {share}: expected {' or '.join(METHODS)} and 0 to 1")
    values = judged(method, statistics)
    clipping.check_batch(values, advantages, mask)
    penalised = mask & (advantages < 0)
    everyones = int(reduce(penalised.sum()))
    _check_whole(int(penalised.sum()), everyones, gather)
    count = round(share * everyones)
    return mask & ~_most_violating(-values.double(), penalised, count, gather, rank)


def judged(method: str, statistics: TokenStatistics | Tensor) -> Tensor:
    """What a method judges by: S for Clip_B, D for Clip_V, or the tensor itself."""
    return clipping.discriminator_in(statistics) if method == "clip_b" else clipping.centred_in(statistics)


def _check_whole(tokens: int, everyones: int, gather: Collective) -> None:
    """Raise ValueError where a part would choose as many tokens as the whole batch may."""
    if gather is alone and tokens != everyones:
        raise ValueError(
            f"{tokens} of the batch's {everyones} tokens are here, of which a number is to be chosen over the whole "
            "batch; pass gather where the parts are processes, or put the parts of this one together first"
        )


def _most_violating(size: Tensor, outliers: Tensor, allowed: int, gather: Collective, rank: int) -> Tensor:
    """Those of the outliers that are among the `allowed` largest of all processes."""
    places = outliers.flatten().nonzero().squeeze(-1)
    order = size.flatten()[places].argsort(descending=True, stable=True)[:allowed]
    own = size.new_full((allowed,), -torch.inf)
    own[: len(order)] = size.flatten()[places[order]]
    everyone = gather(own).flatten()
    first = everyone.argsort(descending=True, stable=True)[:allowed]
    chosen = first[(first >= rank * allowed) & (first < (rank + 1) * allowed)] - rank * allowed
    chosen = chosen[chosen < len(order)]
    return torch.zeros_like(outliers).flatten().index_fill(0, places[order[chosen]], True).view_as(outliers)
