"""Clip_B and Clip_V: which tokens of a batch lose their gradient because their discriminator is an outlier.

Both are the paper's (arXiv 2602.03392). The paper describes outlier masking in general ("two-sided" here); the released
code masks only penalised tokens far below the rest ("released"). The statistics are over all response tokens of the
batch; `global_clipping` masks a batch that is split over micro-batches or processes. Padding is no need: packed
responses are one row of tokens, (T,), with an advantage each.
"""

import math

import torch
from torch import Tensor

from entropy_dynamics.token_statistics import TokenStatistics

# The released configurations. mu has no default here: it is a choice to be made for each task.
CLIP_B_MU = 2.5  # 16 responses a group
CLIP_V_MU = 8.5  # 8 responses a group; the default where the released code is given no arguments, too
CLIP_V_MAX_FRACTION = 1e-4  # of the response tokens; at least one token may go
SMALLEST_SIGMA = 1e-12  # below it no token is an outlier

READINGS = ("released", "two-sided")


def clip_b(
    statistics: TokenStatistics | Tensor, advantages: Tensor, mask: Tensor, *, mu: float, reading: str = "released"
) -> Tensor:
    """Clip_B: judge S_* by its mean and deviation over the batch.

    With z_t = S_*^t - mean S_* and sigma the population deviation of S_*, "released" masks tokens with A < 0 and
    z_t < -mu sigma, "two-sided" every token with |z_t| > mu sigma. (The released code takes p from the engine that
    sampled and H from the trainer; where those disagree, sigma grows and it masks fewer tokens.)

    Args:
        statistics: of the sampled tokens, each of the mask's shape, nats; or S_* alone, which
            `token_statistics.discriminator_of` makes of a trainer's own log-probabilities and entropies.
        advantages: (N, T) like the mask, or (N, 1), one a response; finite where the mask is true.
        mask: (N, T) bool, the response tokens; any shape will do.
        mu: the threshold in deviations, positive; `CLIP_B_MU` as released.
        reading: "released" or "two-sided".

    Returns:
        bool, of the mask's shape: the response tokens that keep their gradient, as in `loss.where(keep, 0.0)`. All of
        them where sigma < 1e-12.

    Raises:
        ValueError: mu that is not positive and finite, an unknown reading, a mask that is not bool, shapes that do not
            fit, or statistics or advantages of response tokens that are not finite.
    """
    values = discriminator_in(statistics).double()
    check(values, advantages, mask, mu, reading)
    z = values - values[mask].mean()
    return mask & ~_outliers(z, mu * _sigma(values[mask]), advantages, reading)


def clip_v(
    statistics: TokenStatistics | Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    mu: float,
    max_fraction: float | None = None,
    reading: str = "released",
) -> Tensor:
    """Clip_V: judge D = S_* - E_p[S] by zero and its deviation over the batch.

    With sigma the population deviation of D, "released" masks tokens with A < 0 and D_t < -mu sigma, "two-sided" every
    token with |D_t| > mu sigma. (The released code also takes tokens with A = 0 and D_t < -mu sigma out of the response
    mask; they have no gradient, so that only its denominators shrink.) Arguments, result and errors as in `clip_b`;
    besides:

    Args:
        statistics: as in `clip_b`, or D alone.
        max_fraction: at most max(1, floor(max_fraction n)) of the n response tokens are masked, those with the largest
            |D| first; in (0, 1], `CLIP_V_MAX_FRACTION` as released, None for no cap.
    """
    centred = centred_in(statistics).double()
    check(centred, advantages, mask, mu, reading, max_fraction)
    threshold = mu * _sigma(centred[mask])
    outliers = mask & _outliers(centred, threshold, advantages, reading)
    if max_fraction is not None:
        allowed = max(1, math.floor(max_fraction * int(mask.sum())))
        places = outliers.flatten().nonzero().squeeze(-1)
        order = centred.flatten()[places].abs().argsort(descending=True, stable=True)
        outliers = torch.zeros_like(outliers).flatten().index_fill(0, places[order[:allowed]], True).view_as(mask)
    return mask & ~outliers


def discriminator_in(statistics: TokenStatistics | Tensor) -> Tensor:
    """S of the statistics, or the tensor itself."""
    return statistics if isinstance(statistics, Tensor) else statistics.discriminator


def centred_in(statistics: TokenStatistics | Tensor) -> Tensor:
    """D of the statistics, or the tensor itself."""
    return statistics if isinstance(statistics, Tensor) else statistics.centred


def _sigma(values: Tensor) -> float:
    """The population deviation; infinity, which no token exceeds, where it is as good as zero."""
    sigma = values.std(correction=0).item() if values.numel() else 0.0
    return sigma if sigma >= SMALLEST_SIGMA else math.inf


def _outliers(values: Tensor, threshold: float, advantages: Tensor, reading: str) -> Tensor:
    if reading == "two-sided":
        return values.abs() > threshold
    return (advantages < 0) & (values < -threshold)


def check(
    values: Tensor, advantages: Tensor, mask: Tensor, mu: float, reading: str, max_fraction: float | None = None
) -> None:
    """Raise ValueError for what `clip_b` and `clip_v` refuse."""
    if not (mu > 0 and math.isfinite(mu)):
        raise ValueError(f"mu is {mu}, expected a positive number; the released code uses {CLIP_B_MU} and {CLIP_V_MU}")
    if reading not in READINGS:
        raise ValueError(f"unknown reading {reading!r}; choose from {', '.join(READINGS)}")
    if max_fraction is not None and not 0 < max_fraction <= 1:
        raise ValueError(f"max_fraction is {max_fraction}, expected above 0 and at most 1, or None")
    check_batch(values, advantages, mask)


def check_batch(values: Tensor, advantages: Tensor, mask: Tensor) -> None:
    """Raise ValueError unless values and advantages of a batch fit its mask, and are finite where it is true."""
    check_statistic(values, mask)
    if mask.ndim == 0 or advantages.shape not in (mask.shape, (*mask.shape[:-1], 1)):
        raise ValueError(
            f"advantages have shape {tuple(advantages.shape)}, expected {tuple(mask.shape)} like the mask, or one a "
            f"response, {(*mask.shape[:-1], 1)}: of shape (N,) pass advantages.unsqueeze(-1)"
        )
    if not advantages.expand(mask.shape)[mask].isfinite().all():
        raise ValueError("the advantages of some response tokens are not finite; check the rewards they come from")


def check_statistic(values: Tensor, mask: Tensor) -> None:
    """Raise ValueError unless values fit a bool mask and are finite where it is true."""
    if mask.dtype != torch.bool or values.shape != mask.shape:
        shapes = f"{tuple(values.shape)}, got {mask.dtype} of {tuple(mask.shape)}"
        raise ValueError(f"expected a bool mask (mask.bool()) of the statistics' shape {shapes}")
    if not values[mask].isfinite().all():
        raise ValueError("the statistics of some response tokens are not finite; check the logits they come from")
