"""Corollaries 3.4 and 3.5 and what breaks them: expectations and sample means of the centred discriminator D."""

from collections.abc import Sequence
from itertools import count

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from entropy_dynamics import theory


def centred_discriminator(logits: Tensor) -> Tensor:
    """D_i = S_i - E_p[S] of every token, shape (..., V), in nats."""
    s = theory.discriminator(logits)
    return s - torch.linalg.vecdot(logits.softmax(-1), s).unsqueeze(-1)


def top_p_logits(logits: Tensor, top_p: float) -> Tensor:
    """The logits with every token outside the nucleus set to -inf.

    The nucleus is the smallest set of most probable tokens whose mass reaches `top_p`, 0 < top_p <= 1.
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}, expected 0 < top_p <= 1")
    if top_p == 1:
        return logits
    p, order = logits.double().softmax(-1).sort(-1, descending=True)
    mass_before = p.cumsum(-1) - p
    outside = torch.zeros_like(p, dtype=torch.bool).scatter_(-1, order, mass_before >= top_p)
    return logits.masked_fill(outside, -torch.inf)


def expected_centred(sampler: Tensor, centred: Tensor, *, policy: Tensor | None = None) -> Tensor:
    """E_{k~q}[D_k] exactly, shape (...), for the probabilities q of `sampler` and D of `centred`, both (..., V).

    With the probabilities p of `policy` it is E_{k~q}[(p_k / q_k) D_k], the importance-weighted mean.
    """
    if policy is None:
        return torch.linalg.vecdot(sampler, centred)
    weight = torch.where(sampler > 0, policy / sampler, 0.0)
    return torch.linalg.vecdot(sampler, weight * centred)


def sampler_bias(
    logits: Tensor, tokens: Tensor, *, temperature: float, top_p: float, stale_step: float
) -> pd.DataFrame:
    """E_q[D] per state for a sampler q that is the policy, and for three that are not; one row a state, in nats.

    Args:
        logits: (n, V) of the policy.
        tokens: (n,); for "stale" the policy is one GRPO step of size `stale_step` on these ahead of the sampler.
        temperature, top_p: of the two other samplers.

    Returns:
        Columns "on policy"; "stale", "temperature" and "top-p" (the plain mean of D), each also with
        ", weighted" (importance weights) and, for the last two, ", own" (D of the sampler itself).
    """
    variants = {
        "policy": logits,
        "trained": logits + theory.grpo_logit_update(logits, tokens, stale_step),
        "tempered": logits / temperature,
        "nucleus": top_p_logits(logits, top_p),
    }
    p = {name: variant.softmax(-1) for name, variant in variants.items()}
    d = {name: centred_discriminator(variant) for name, variant in variants.items()}
    columns = {
        "on policy": expected_centred(p["policy"], d["policy"]),
        "stale": expected_centred(p["policy"], d["trained"]),
        "stale, weighted": expected_centred(p["policy"], d["trained"], policy=p["trained"]),
        "temperature": expected_centred(p["tempered"], d["policy"]),
        "temperature, weighted": expected_centred(p["tempered"], d["policy"], policy=p["policy"]),
        "temperature, own": expected_centred(p["tempered"], d["tempered"]),
        "top-p": expected_centred(p["nucleus"], d["policy"]),
        "top-p, weighted": expected_centred(p["nucleus"], d["policy"], policy=p["policy"]),
        "top-p, own": expected_centred(p["nucleus"], d["nucleus"]),
    }
    return pd.DataFrame({name: values.numpy() for name, values in columns.items()})


def stale_bias(logits: Tensor, alpha: float) -> Tensor:
    """E_{i~p}[D_i'], D' of the policy that is a GRPO step alpha on token k ahead of p; for every k, (n, V), in nats."""
    every = logits.unsqueeze(-2).expand(*logits.shape, -1)
    tokens = torch.arange(logits.shape[-1]).expand(logits.shape)
    ahead = every + theory.grpo_logit_update(every, tokens, alpha)
    return expected_centred(every.softmax(-1), centred_discriminator(ahead))


def stale_slope(logits: Tensor) -> Tensor:
    """The derivative of `stale_bias` at alpha = 0: -(p_k D_k - E_p[p D]), (n, V); its mean over k ~ p is zero."""
    p = logits.softmax(-1)
    moved = p * centred_discriminator(logits)
    return torch.linalg.vecdot(p, moved).unsqueeze(-1) - moved


def batch_means(logits: Tensor, sizes: Sequence[int], *, batches: int, seed: int) -> pd.DataFrame:
    """Means of D and S over on-policy batches: each token's state is drawn uniformly from `logits` (states, V).

    Returns:
        One row per (size, batch): size, batch, centred and discriminator (the batch means, in nats).
    """
    generator = torch.Generator().manual_seed(seed)
    joint = logits.softmax(-1).flatten() / len(logits)
    d, s = centred_discriminator(logits).flatten(), theory.discriminator(logits).flatten()
    rows = []
    for size in sizes:
        draws = torch.multinomial(joint, size * batches, replacement=True, generator=generator).view(batches, size)
        means = {"centred": d[draws].mean(-1).numpy(), "discriminator": s[draws].mean(-1).numpy()}
        rows.append(pd.DataFrame({"size": size, "batch": range(batches), **means}))
    return pd.concat(rows, ignore_index=True)


def centred_variance(logits: Tensor) -> Tensor:
    """Var_{k~p}(D_k) of each state, shape (...), in nats^2; D has mean zero, so this is E_p[D^2]."""
    return torch.linalg.vecdot(logits.softmax(-1), centred_discriminator(logits).square())


def enumerate_sequences(vocabulary: int, max_length: int, *, seed: int) -> pd.DataFrame:
    """Every response of a small random policy: token 0 ends it, otherwise it is cut at `max_length` tokens.

    Each prefix has its own standard Gaussian logits.

    Returns:
        One row a response: probability, length, and centred, the sum of D over its tokens, in nats.
    """
    if vocabulary < 2 or max_length < 1:
        raise ValueError(f"need vocabulary >= 2 and max_length >= 1, got {vocabulary} and {max_length}")
    generator = torch.Generator().manual_seed(seed)
    finished, unfinished = [], [(1.0, 0.0)]  # (probability, sum of D so far)
    for length in count(1):
        longer = []
        for probability, centred in unfinished:
            logits = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
            p, d = logits.softmax(-1).tolist(), centred_discriminator(logits).tolist()
            children = [(probability * p_k, centred + d_k) for p_k, d_k in zip(p, d)]
            ended = children if length == max_length else children[:1]
            finished.extend((pr, length, total) for pr, total in ended)
            longer.extend(children[1:])
        if length == max_length:
            return pd.DataFrame(finished, columns=["probability", "length", "centred"])
        unfinished = longer


def expected_batch_mean(sequences: pd.DataFrame, responses: int, *, of: str) -> float:
    """The exact expectation of the batch mean of D over `responses` independent sequences, in nats.

    Args:
        sequences: as from `enumerate_sequences`.
        of: "tokens" for sum of D / number of tokens in the batch, "sequences" for the mean over responses of
            each response's own mean.
    """
    p, length, d = (sequences[name].to_numpy() for name in ("probability", "length", "centred"))
    if of == "sequences":
        return float((p * d / length).sum())
    if of != "tokens":
        raise ValueError(f"of is {of!r}, expected 'tokens' or 'sequences'")
    # By symmetry responses * E[D_1 / (L_1 + rest)], with the rest's length by convolution.
    length_distribution = np.bincount(length, weights=p)
    rest = np.ones(1)
    for _ in range(responses - 1):
        rest = np.convolve(rest, length_distribution)
    inverse_length = np.array([(rest / (own + np.arange(len(rest)))).sum() for own in length])
    return float(responses * (p * d * inverse_length).sum())
