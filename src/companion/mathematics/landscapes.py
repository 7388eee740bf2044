"""The entropy discriminator as a landscape: tables over the simplex and over the (p, H) plane, and its extremes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from companion.mathematics.remainder import trust_radius
from entropy_dynamics import theory


def simplex_field(resolution: int) -> pd.DataFrame:
    """The closed forms on an even grid of the inner 3-simplex, `resolution` points along an edge.

    Returns:
        Columns p1, p2, p3; entropy; s1, s2, s3; and flow1, flow2, flow3, the motion of p when the logits
        follow the entropy gradient -S.
    """
    if resolution < 4:
        raise ValueError(f"resolution is {resolution}, expected at least 4 to have inner points")
    steps = torch.arange(1, resolution, dtype=torch.float64) / resolution
    p = torch.stack([*torch.meshgrid(steps, steps, indexing="ij")], -1).view(-1, 2)
    p = p[p.sum(-1) < 1 - 0.5 / resolution]
    p = torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1)
    logits = p.log()
    s = theory.discriminator(logits)
    flow = theory.probability_change(logits, -s)
    columns = torch.cat([p, theory.entropy(logits).unsqueeze(-1), s, flow], -1)
    names = ["p1", "p2", "p3", "entropy", "s1", "s2", "s3", "flow1", "flow2", "flow3"]
    return pd.DataFrame(columns.numpy(), columns=names)


def binary_entropy(p):
    """Entropy in nats of a coin with probability `p` in [0, 1] (float or array)."""
    p = np.asarray(p, dtype=float)
    return -(
        np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0) + np.where(p < 1, (1 - p) * np.log1p(-p * (p < 1)), 0)
    )


def is_attainable(p, entropy, vocabulary: int):
    """Whether a policy over `vocabulary` tokens with this entropy (nats) can give one token probability `p`.

    The rest of the policy contributes between 0 and (1 - p) log(V - 1) nats to the entropy.
    """
    own = binary_entropy(p)
    return (own <= entropy) & (entropy <= own + (1 - p) * np.log(vocabulary - 1))


def policy_at(probability: float, entropy: float, vocabulary: int) -> Tensor:
    """Float64 logits of a policy whose first token has `probability` and whose entropy is `entropy` (nats).

    Raises:
        ValueError: no policy over `vocabulary` tokens has both.
    """
    if not is_attainable(probability, entropy, vocabulary):
        raise ValueError(f"no policy over {vocabulary} tokens has p = {probability} and H = {entropy}")
    ladder = torch.arange(vocabulary - 1, dtype=torch.float64)

    def logits(steepness: float) -> Tensor:
        rest = (-steepness * ladder).log_softmax(-1) + np.log1p(-probability)
        return torch.cat([torch.tensor([np.log(probability)], dtype=torch.float64), rest])

    steepness = brentq(lambda x: theory.entropy(logits(x)).item() - entropy, 0.0, 700.0, xtol=1e-15, rtol=1e-14)
    return logits(steepness)


def discriminator_curves(entropies: Sequence[float], vocabulary: int) -> pd.DataFrame:
    """S = p (H + log p) along p at each fixed entropy; columns entropy, p, s, attainable."""
    p = np.concatenate([np.geomspace(1e-4, 0.02, 60), np.linspace(0.0205, 1.0, 800)])
    return pd.concat(
        [
            pd.DataFrame(
                {"entropy": h, "p": p, "s": p * (h + np.log(p)), "attainable": is_attainable(p, h, vocabulary)}
            )
            for h in entropies
        ],
        ignore_index=True,
    )


def discriminator_plane(vocabulary: int, *, points: int = 240) -> pd.DataFrame:
    """S where a policy of `vocabulary` tokens can be; columns p (log-spaced), entropy, s (NaN where none can)."""
    p, h = np.meshgrid(np.geomspace(1e-4, 1, points, endpoint=False), np.linspace(0.01, np.log(vocabulary), points))
    s = np.where(is_attainable(p, h, vocabulary), p * (h + np.log(p)), np.nan)
    return pd.DataFrame({"p": p.ravel(), "entropy": h.ravel(), "s": s.ravel()})


def lowest_over_all_policies() -> tuple[float, float]:
    """(p, S) of the most negative discriminator that any policy of any size can have (identity 4).

    At given p, S grows with H, and H is at least the binary entropy of p: minimise p (1 - p) log(p / (1 - p)).
    """
    best = minimize_scalar(lambda p: p * (1 - p) * np.log(p / (1 - p)), bounds=(1e-9, 0.5), method="bounded")
    return float(best.x), float(best.fun)


def lowest_entropy_that_attains_minimum() -> float:
    """The entropy (nats) above which some policy reaches the lower bound -e^{-1-H} of S (identity 4)."""
    return float(brentq(lambda h: binary_entropy(np.exp(-1 - h)) - h, 0.1, 2.0))


def radius_plane(vocabulary: int, *, points: int = 28) -> pd.DataFrame:
    """Trust radius of the first token of `policy_at` over the (p, H) plane; columns p, entropy, radius.

    NaN where no policy is, infinite where the sign is right up to |alpha| = 100.
    """
    h, p = np.meshgrid(np.linspace(0.05, 0.98 * np.log(vocabulary), points), np.geomspace(1e-4, 0.999, points))
    plane = pd.DataFrame({"p": p.ravel(), "entropy": h.ravel(), "radius": np.nan})
    there = is_attainable(plane.p, plane.entropy, vocabulary)
    if there.any():
        logits = torch.stack([policy_at(p, h, vocabulary) for p, h in zip(plane.p[there], plane.entropy[there])])
        plane.loc[there, "radius"] = trust_radius(logits, torch.zeros(len(logits), dtype=torch.long)).numpy()
    return plane
