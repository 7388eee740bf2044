"""What a mask did to a batch, as numbers for a trainer's log."""

import torch
from torch import Tensor

from entropy_dynamics import clipping
from entropy_dynamics.global_clipping import Collective, alone, moments
from entropy_dynamics.token_statistics import TokenStatistics


@torch.no_grad()
def masking_log(
    statistics: TokenStatistics, advantages: Tensor, mask: Tensor, kept: Tensor, *, reduce: Collective = alone
) -> dict[str, float]:
    """Numbers over the response tokens of a batch; over processes with `reduce`, which sums a tensor over them.

    Args:
        statistics: S and D of the sampled tokens, of the mask's shape (N, T), nats; advantages: (N, T) or (N, 1).
        mask: bool, the response tokens; kept: bool, those of them that keep their gradient.

    Returns:
        mean_s, sigma_s, mean_d, sigma_d (nats, population deviation); cov_a_d, the covariance of A and D;
        masked_positive and masked_negative, the masked shares of the tokens with A > 0 and A < 0;
        predicted_change_unmasked and predicted_change, -A D summed over all response tokens and over the kept ones, per
        response token: the first-order change of mean entropy per unit of effective step.

    Raises:
        ValueError: as `global_clipping.moments`, and advantages of another shape or not finite.
    """
    clipping.check_batch(statistics.discriminator, advantages, mask)
    advantages = advantages.expand(mask.shape)
    of_s, of_d, of_a = (
        moments(x, mask, reduce=reduce) for x in (statistics.discriminator, statistics.centred, advantages)
    )
    change = -(advantages * statistics.centred).double()
    sides = mask & (advantages > 0), mask & (advantages < 0)
    counts = [count.double() for side in sides for count in ((side & ~kept).sum(), side.sum())]
    before, after, *counts = reduce(torch.stack([change[mask].sum(), change[kept].sum(), *counts])).tolist()
    tokens = max(1, of_s.tokens)
    return {
        "mean_s": of_s.mean,
        "sigma_s": of_s.sigma,
        "mean_d": of_d.mean,
        "sigma_d": of_d.sigma,
        "cov_a_d": -before / tokens - of_a.mean * of_d.mean,
        "masked_positive": counts[0] / max(1.0, counts[1]),
        "masked_negative": counts[2] / max(1.0, counts[3]),
        "predicted_change_unmasked": before / tokens,
        "predicted_change": after / tokens,
    }
