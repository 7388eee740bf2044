"""The rules that act on single tokens of a GRPO batch, the paper's and its rivals', each one small pure function.

A rule has the signature rule(batch, generator, **options) and returns the weight of each token's surrogate, or `Terms`
where the method adds something to the objective. All maximise the mean over response tokens of

    weights r A + log_prob log p + entropy H

whose coefficients are constants: a token that PPO's clip would leave without a gradient simply has weight 0. "As
reported" marks formulas known from papers' texts, "as in its code" those read in the authors' source.

The docstring of a rule has its source in the first parentheses, and two fields, of which docs/rules.md is made:
"Coefficients" of a response token, w of r A, b of log p and h of H, those that are left out being 0; and "Constants",
whose the default values are. K is 0 where `is_clipped`, else 1; c is `covariance`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from entropy_dynamics import clipping
from entropy_dynamics.token_statistics import TokenStatistics


@dataclass(frozen=True)
class TokenBatch:
    """What a rule may look at; tensors are (N, T), one row a response, and carry no gradient."""

    statistics: TokenStatistics  # of the policy that is about to be updated, at the sampling temperature
    old: TokenStatistics  # of the policy that the tokens were sampled from
    advantages: Tensor  # A of each token's response
    rewards: Tensor  # R of each token's response
    mask: Tensor  # bool: the response tokens
    groups: Tensor  # (N,) integer: the group of each response
    update: int = 0  # how many updates on this batch came before
    entropies: tuple[float, ...] = ()  # mean entropy of every batch so far, when sampled, this one last; nats
    reference: Tensor | None = None  # (N, T) log-probabilities under a policy that the trained one is held near

    def __post_init__(self):
        """Raise ValueError where shapes do not fit, which broadcasting would hide, or advantages are not finite."""
        for name in ("advantages", "rewards"):
            if getattr(self, name).shape != self.mask.shape:
                raise ValueError(
                    f"{name} have shape {tuple(getattr(self, name).shape)}, expected {tuple(self.mask.shape)} like the "
                    "mask; expand what a response has to all its tokens"
                )
        if self.groups.shape != self.mask.shape[:1]:
            raise ValueError(f"groups have shape {tuple(self.groups.shape)}, expected ({len(self.mask)},)")
        for values in (self.statistics.discriminator, self.old.log_prob):
            clipping.check_batch(values, self.advantages, self.mask)

    @property
    def ratio(self) -> Tensor:
        """The importance ratio r."""
        return (self.statistics.log_prob - self.old.log_prob).exp()


class Terms(NamedTuple):
    """Coefficients of the objective, (N, T) floats, constants to the gradient."""

    weights: Tensor  # of r A
    log_prob: Tensor  # of log p
    entropy: Tensor  # of H, the entropy of the token's state

    def of_log_prob(self, batch: TokenBatch) -> Tensor:
        """The whole coefficient of each token's grad log p: weights r A + log_prob, 0 outside the mask."""
        return torch.where(batch.mask, self.weights * batch.ratio * batch.advantages + self.log_prob, 0.0)


def grpo(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Tensor:
    """GRPO with PPO's clip (arXiv 1707.06347, 2402.03300), see `is_clipped`; 0.2 on both sides is the usual choice.

    Clip-higher (DAPO, arXiv 2503.14476) is clip_high = 0.28; arXiv 2509.26114 studies both bounds. The dual clip (arXiv
    1912.09729) also drops tokens with A < 0 and r > dual_clip: 3 by default in verl and Trinity, 10 in DAPO's scripts.

    Coefficients: w = K, 0 where A < 0 and r > dual_clip if that is given.
    Constants: 0.2 on both sides is the usual choice.
    """
    kept = batch.mask & ~is_clipped(batch.ratio, batch.advantages, clip_low=clip_low, clip_high=clip_high)
    return kept if dual_clip is None else kept & ~((batch.advantages < 0) & (batch.ratio > dual_clip))


def is_clipped(ratio: Tensor, advantages: Tensor, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Tensor:
    """Whether PPO's clip takes away the gradient: r > 1 + clip_high with A > 0, or r < 1 - clip_low with A < 0."""
    return ((advantages > 0) & (ratio > 1 + clip_high)) | ((advantages < 0) & (ratio < 1 - clip_low))


def on_policy(batch: TokenBatch, generator: torch.Generator) -> Tensor:
    """Strictly on-policy GRPO (ours): one update per batch of rollouts, none once the policy has moved away from it.

    Coefficients: w = 1 before the first update on a batch, then 0.
    Constants: none.
    """
    return batch.mask & (batch.update == 0)


def clip_b(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    mu: float,
    reading: Literal["released", "two-sided"] = "released",
) -> Tensor:
    """Clip_B (arXiv 2602.03392, as in its code and as in its text) on top of GRPO; see `clipping.clip_b`.

    Coefficients: w = K, 0 where A < 0 and S - mean S < -mu sigma (released) or |S - mean S| > mu sigma (two-sided).
    Constants: mu has no default; 2.5 as released.
    """
    return grpo(batch, generator) & clipping.clip_b(
        batch.statistics, batch.advantages, batch.mask, mu=mu, reading=reading
    )


def clip_v(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    mu: float,
    max_fraction: float | None = None,
    reading: Literal["released", "two-sided"] = "released",
) -> Tensor:
    """Clip_V (arXiv 2602.03392, as in its code and as in its text) on top of GRPO; see `clipping.clip_v`.

    Coefficients: w = K, 0 where A < 0 and D < -mu sigma (released) or |D| > mu sigma (two-sided).
    Constants: mu has no default; 8.5 and max_fraction 1e-4 as released.
    """
    return grpo(batch, generator) & clipping.clip_v(
        batch.statistics, batch.advantages, batch.mask, mu=mu, max_fraction=max_fraction, reading=reading
    )


def matched_mask(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    like: Literal["clip_b", "clip_v"],
    mu: float,
    reading: Literal["released", "two-sided"] = "released",
    choice: Literal["random", "rarest"],
) -> Tensor:
    """The control of a clipping method (ours): mask as many tokens of each sign of A as it would, but other ones.

    "random" draws them, "rarest" takes those of the lowest probability.

    Coefficients: w = K, 0 for as many tokens of each sign of A as the method masks, drawn or the rarest.
    Constants: those of the method.

    Raises:
        ValueError: an unknown method or choice.
    """
    _check("like", like, ("clip_b", "clip_v"))
    _check("choice", choice, ("random", "rarest"))
    keep = {"clip_b": clipping.clip_b, "clip_v": clipping.clip_v}[like](
        batch.statistics, batch.advantages, batch.mask, mu=mu, reading=reading
    )
    masked = torch.zeros_like(batch.mask)
    for side in (batch.advantages > 0, batch.advantages < 0, batch.advantages == 0):
        candidates, count = batch.mask & side, int((batch.mask & side & ~keep).sum())
        if choice == "random":
            masked |= random_subset(candidates, count, generator)
        else:
            masked |= largest(-batch.statistics.log_prob, candidates, count)
    return grpo(batch, generator) & ~masked


def masked_share(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    statistic: Literal["S", "D", "A D", "p", "covariance", "random"],
    share: float,
    coefficient: float = 0.0,
) -> Terms:
    """A share of the penalised tokens, A < 0, is masked on top of GRPO (ours), chosen by one statistic.

    Those with the lowest S, D or p come first, those with the largest A D or covariance (see `covariance`), or any.
    With lowest S or D first these are the orders of Clip_B and Clip_V, whose thresholds mask a share that depends on
    the batch. `coefficient` is that of an entropy bonus beside it.

    Coefficients: w = K, 0 for the share of the penalised tokens that comes first; h = coefficient.
    Constants: none.

    Raises:
        ValueError: an unknown statistic, or a share outside 0 to 1.
    """
    _check("statistic", statistic, ("S", "D", "A D", "p", "covariance", "random"))
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, expected 0 to 1")
    penalised = batch.mask & (batch.advantages < 0)
    count = round(share * int(penalised.sum()))
    if statistic == "random":
        masked = random_subset(penalised, count, generator)
    else:
        first = {
            "S": lambda: -batch.statistics.discriminator,
            "D": lambda: -batch.statistics.centred,
            "A D": lambda: batch.advantages * batch.statistics.centred,
            "p": lambda: -batch.statistics.log_prob,
            "covariance": lambda: covariance(batch),
        }[statistic]()
        masked = largest(first, penalised, count)
    return as_terms(batch, grpo(batch, generator) & ~masked, entropy=coefficient * batch.mask)


def _check(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")


def intervention(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    action: Literal["keep", "remove"],
    advantage: Literal["positive", "negative"],
    statistic: Literal["S", "D"],
    sign: Literal["above", "below"],
    at_random: bool = False,
) -> Tensor:
    """Keep or remove tokens with A of one sign and S or D of one sign (arXiv 2602.03392; removal and D are ours).

    "keep" with S is the paper's intervention: the gradient of all other tokens vanishes, those of the other sign of
    A included. With `at_random` it is the control: as many tokens, drawn from all with that sign of A.

    Coefficients: w = K on the tokens that are kept, else 0.
    Constants: none.

    Raises:
        ValueError: an unknown action, advantage, statistic or sign.
    """
    _check("action", action, ("keep", "remove"))
    _check("advantage", advantage, ("positive", "negative"))
    _check("statistic", statistic, ("S", "D"))
    _check("sign", sign, ("above", "below"))
    side = batch.mask & (batch.advantages > 0 if advantage == "positive" else batch.advantages < 0)
    value = batch.statistics.discriminator if statistic == "S" else batch.statistics.centred
    selected = side & (value > 0 if sign == "above" else value < 0)
    if at_random:
        selected = random_subset(side, int(selected.sum()), generator)
    return grpo(batch, generator) & (selected if action == "keep" else ~selected)


def top_entropy(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    fraction: float = 0.2,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Tensor:
    """80/20 (arXiv 2506.01939, as reported): only the `fraction` of tokens in the states of highest entropy count.

    Its script has clip_high = 0.28, takes the fraction of a micro-batch, rounded up, and divides by the tokens that
    count (denominator "kept" of `grpo.loss`).

    Coefficients: w = K on the fraction of the tokens with the highest H, else 0.
    Constants: as reported; its script has clip_high 0.28.
    """
    count = int(fraction * int(batch.mask.sum()))
    kept = grpo(batch, generator, clip_low=clip_low, clip_high=clip_high)
    return kept & largest(batch.statistics.entropy, batch.mask, count)


def clip_cov(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    fraction: float = 2e-4,
    low: float = 1.0,
    high: float = 5.0,
    clip: float = 1.0,
) -> Tensor:
    """Clip-Cov (arXiv 2505.22617, as in its code): no weight for a few random tokens of high covariance.

    c = (A - mean A)(log p - mean log p), means over the batch; max(1, floor(fraction n)) of the tokens with
    low < c < high that PPO's clip left alone are drawn. Its scripts set PPO's clip to 1.

    Coefficients: w = K, 0 for max(1, floor(fraction n)) random tokens with low < c < high.
    Constants: those of its scripts.
    """
    kept = grpo(batch, generator, clip_low=clip, clip_high=clip)
    c = covariance(batch)
    candidates = kept & (c > low) & (c < high)
    count = max(1, int(fraction * int(batch.mask.sum())))
    return kept & ~random_subset(candidates, min(count, int(candidates.sum())), generator)


def kl_cov(batch: TokenBatch, generator: torch.Generator, *, fraction: float = 2e-3, coefficient: float = 1.0) -> Terms:
    """KL-Cov (arXiv 2505.22617, as in its code): tokens of the highest covariance are held near the sampling policy.

    The max(1, floor(fraction n)) tokens of largest c (see `clip_cov`) get -coefficient |log p - log p_old|; there is no
    PPO clip. `fraction` as for its 7B model. Where r = 1 the added term has no gradient.

    Coefficients: w = 1; b = -coefficient sign(log p - log p_old) on the tokens of the highest c.
    Constants: those of its scripts for a 7B model.
    """
    chosen = largest(covariance(batch), batch.mask, max(1, int(fraction * int(batch.mask.sum()))))
    direction = (batch.statistics.log_prob - batch.old.log_prob).sign()
    return as_terms(batch, batch.mask, log_prob=-coefficient * direction * chosen)


def advantage_reweighting(
    batch: TokenBatch, generator: torch.Generator, *, a: float = 0.2, clip_low: float = 0.2, clip_high: float = 0.2
) -> Tensor:
    """Advantage reweighting (arXiv 2505.12929, as in its code): weight a p + 1 - a, with p when sampled.

    PPO's clip is ours; its script has clip_high = 0.24, a dual clip of 10 and a KL penalty of 0.001.

    Coefficients: w = K (a p_old + 1 - a).
    Constants: those of its code; PPO's clip is ours.
    """
    return grpo(batch, generator, clip_low=clip_low, clip_high=clip_high) * (a * batch.old.log_prob.exp() + 1 - a)


def rare_positives(batch: TokenBatch, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
    """Probability-weighted updates (arXiv 2602.03392 in words, formula ours): weight 1 + strength (1 - p) where A > 0.

    Coefficients: w = K (1 + strength (1 - p)) where A > 0, else K.
    Constants: ours.
    """
    boost = strength * (1 - batch.statistics.log_prob.exp()) * (batch.advantages > 0)
    return grpo(batch, generator) * (1 + boost)


def w_reinforce(batch: TokenBatch, generator: torch.Generator, *, positive: float = 0.1) -> Terms:
    """W-REINFORCE (arXiv 2506.01347, as in its code): A = positive for a right response and -1 for a wrong one.

    positive = 0 is NSR, which learns from wrong responses alone (its code takes the mean over their tokens only). There
    is no group baseline; PPO's clip stays.

    Coefficients: w = 0; b = K r A' with A' = positive R - (1 - R), K by the sign of A'.
    Constants: those of its code; PPO's clip is ours.
    """
    advantages = positive * batch.rewards - (1 - batch.rewards)
    kept = batch.mask & ~is_clipped(batch.ratio, advantages)
    return as_terms(batch, torch.zeros_like(kept), log_prob=kept * batch.ratio * advantages)


def ce_gppo(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    beta_low: float = 0.75,
    beta_high: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    imitation: float = 0.0,
) -> Terms:
    """CE-GPPO (arXiv 2509.20712, as in its code): clipped tokens keep a bounded gradient.

    Where PPO clips, r in the gradient is replaced by beta_low (1 - clip_low) for A < 0 and beta_high (1 + clip_high)
    for A > 0. Its scripts also add 0.1 times the mean log p over the tokens of right responses (`imitation`), and have
    a dual clip of 10.

    Coefficients: w = 1, where PPO clips beta_high (1 + clip_high) / r (A > 0) and beta_low (1 - clip_low) / r (A < 0);
        b = imitation n / (tokens of right responses) on these.
    Constants: those of its code; without its imitation and its dual clip.
    """
    bounded = torch.where(batch.advantages > 0, beta_high * (1 + clip_high), beta_low * (1 - clip_low)) / batch.ratio
    clipped = is_clipped(batch.ratio, batch.advantages, clip_low=clip_low, clip_high=clip_high)
    right = batch.mask & (batch.rewards > 0)
    of_right = imitation * right * (batch.mask.sum() / right.sum().clamp(min=1))
    return as_terms(batch, batch.mask * torch.where(clipped, bounded, 1.0), log_prob=of_right)


def cispo(batch: TokenBatch, generator: torch.Generator, *, largest_ratio: float = 5.0) -> Tensor:
    """CISPO (arXiv 2506.13585, as in TRL): A sg(min(r, largest_ratio)) log p; no token is dropped.

    `largest_ratio` as in arXiv 2510.13786; other trainers have 1.28 and a lower bound.

    Coefficients: w = min(r, largest_ratio) / r.
    Constants: largest_ratio as in arXiv 2510.13786.
    """
    return batch.mask * (batch.ratio.clamp(max=largest_ratio) / batch.ratio)


def sapo(batch: TokenBatch, generator: torch.Generator, *, positive: float = 1.0, negative: float = 1.05) -> Tensor:
    """SAPO (arXiv 2511.20347, as in TRL): r is replaced by (4 / tau) sigmoid(tau (r - 1)), a gate instead of a clip.

    tau is `positive` for A > 0 and `negative` else, where the gate closes faster. The weight is the gate's slope.

    Coefficients: w = 4 g (1 - g) with g = sigmoid(tau (r - 1)).
    Constants: those of TRL.
    """
    tau = torch.where(batch.advantages > 0, positive, negative)
    gate = torch.sigmoid(tau * (batch.ratio - 1))
    return batch.mask * 4 * gate * (1 - gate)


def gmpo(batch: TokenBatch, generator: torch.Generator, *, clip_low: float = 0.4, clip_high: float = 0.4) -> Tensor:
    """GMPO (arXiv 2507.20673, as verl's geo_mean): A times the geometric mean of a response's clipped ratios.

    log r is clipped to (-clip_low, clip_high), as PPO clips r, token by token; clipped tokens still count in the mean.
    Its mean over responses is aggregation "sequence-mean".

    Coefficients: w = s / r where log r is within its bound, else 0; s = exp(mean of a response's bounded log r).
    Constants: those of verl.
    """
    log_ratio = (batch.statistics.log_prob - batch.old.log_prob).where(batch.mask, 0.0)
    up, down = batch.advantages > 0, batch.advantages < 0
    bounded = torch.where(up, log_ratio.clamp(max=clip_high), torch.where(down, log_ratio.clamp(min=-clip_low), 0.0))
    mean = (bounded.sum(-1) / batch.mask.sum(-1).clamp(min=1)).exp().unsqueeze(-1)
    return batch.mask * (bounded == log_ratio) * mean / log_ratio.exp()


def aspo(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    largest_ratio: float = 3.0,
) -> Tensor:
    """ASPO (arXiv 2510.06062, as in its code): 1 / r takes the place of r where A > 0; PPO's clip stays.

    1 / r, and r where A < 0, are bounded by `largest_ratio` and keep their gradient there. Its code has other bounds
    for states of high entropy.

    Coefficients: w = K min(1 / r, largest_ratio) / r where A > 0, else K min(r, largest_ratio) / r.
    Constants: those of its code but for states of high entropy.
    """
    ratio = batch.ratio
    factor = torch.where(batch.advantages > 0, 1 / ratio, ratio).clamp(max=largest_ratio)
    return grpo(batch, generator, clip_low=clip_low, clip_high=clip_high) * factor / ratio


def entrocraft(batch: TokenBatch, generator: torch.Generator, *, low: float = 0.6, high: float = 0.7) -> Terms:
    """Entrocraft (arXiv 2604.26326, as in its code): below `low` only wrong responses count, above `high` only right.

    There A is -1 for wrong or 1 for right responses; between the bounds it is GRPO. Its entropy is that of the batch
    before; some of its scripts let the bounds fall, from 0.6 to 0.1.

    Coefficients: w = K between the bounds; outside w = 0 and b = K r on right or -K r on wrong responses.
    Constants: those of its code.
    """
    entropy = batch.entropies[-1] if batch.entropies else batch.old.entropy[batch.mask].mean().item()
    if low <= entropy <= high:
        return as_terms(batch, grpo(batch, generator))
    right = (batch.rewards > 0).to(batch.advantages.dtype)
    advantages = right if entropy > high else right - 1
    kept = batch.mask & ~is_clipped(batch.ratio, advantages)
    return as_terms(batch, torch.zeros_like(kept), log_prob=kept * batch.ratio * advantages)


def gspo(batch: TokenBatch, generator: torch.Generator, *, clip_low: float = 3e-4, clip_high: float = 4e-4) -> Tensor:
    """GSPO (arXiv 2507.18071, as reported): the ratio of a sequence, s = exp(mean log r), replaces r and is clipped.

    Its mean over responses is aggregation "sequence-mean".

    Coefficients: w = K s / r with s = exp(mean log r of the response), K by s.
    Constants: as reported.
    """
    log_ratio = (batch.statistics.log_prob - batch.old.log_prob).where(batch.mask, 0.0)
    s = (log_ratio.sum(-1) / batch.mask.sum(-1).clamp(min=1)).exp().unsqueeze(-1)
    kept = batch.mask & ~is_clipped(s, batch.advantages, clip_low=clip_low, clip_high=clip_high)
    return kept * s / batch.ratio.where(batch.mask, 1.0)


def entropy_ratio_clipping(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    low: float = 0.95,
    high: float = 1.05,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Tensor:
    """Entropy-ratio clipping (arXiv 2512.05591, as in its code): no weight where H / H_old is outside (low, high).

    PPO's clip is ours; its script on top of DAPO has clip_high = 0.28 and a dual clip of 10.

    Coefficients: w = K, 0 where H / H_old is outside (low, high).
    Constants: those of its code; PPO's clip is ours.
    """
    ratio = batch.statistics.entropy / batch.old.entropy
    return grpo(batch, generator, clip_low=clip_low, clip_high=clip_high) & ~((ratio < low) | (ratio > high))


def opefo(batch: TokenBatch, generator: torch.Generator) -> Tensor:
    """OPEFO (arXiv 2605.11491, as reported): scale entropy-raising tokens up and lowering ones down until they balance.

    With F and R the totals of |r A D| over the tokens that lower and raise entropy, l = (F - R) / (F + R), the weights
    are 1 + l where entropy rises and 1 - l where it falls; then F (1 - l) = R (1 + l).

    Coefficients: w = K (1 + l) where the token raises entropy, K (1 - l) where it lowers it, to first order.
    Constants: none.
    """
    kept = grpo(batch, generator)
    effect = torch.where(kept, -batch.ratio * batch.advantages * batch.statistics.centred, 0.0)
    rising, falling = effect.clamp(min=0).sum(), -effect.clamp(max=0).sum()
    scale = (falling - rising) / (falling + rising).clamp(min=torch.finfo(effect.dtype).tiny)
    return kept * (1 + scale * effect.sign())


def repo(batch: TokenBatch, generator: torch.Generator, *, beta: float = 0.01) -> Terms:
    """REPO (arXiv 2603.11682, as reported): A' = A - beta (log p + H), whose mean effect is that of an entropy bonus.

    Its strength is ours: that of the fixed entropy bonus here. What its authors run is `repo_r`.

    Coefficients: w = K; b = -K r beta (log p + H), K by the sign of A'.
    Constants: ours.
    """
    shift = -beta * (batch.statistics.log_prob + batch.statistics.entropy)
    kept = batch.mask & ~is_clipped(batch.ratio, batch.advantages + shift)
    return as_terms(batch, kept, log_prob=kept * batch.ratio * shift.where(batch.mask, 0.0))


def repo_r(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    target: float = 0.2,
    zeta: float = 0.001,
    smallest: float = 1e-4,
    largest_zeta: float = 0.05,
) -> Terms:
    """REPO-R (arXiv 2603.11682, as reported): A' = A (1 - zeta log p) where A > 0, A (1 + zeta log p) where A < 0.

    A' is 0 where its sign would change. zeta is doubled after each batch whose mean entropy is below `target` and
    halved after each above, within its bounds.

    Coefficients: w = K (1 - zeta log p) where A > 0, else K max(0, 1 + zeta log p).
    Constants: zeta and its bounds as reported; the target is ours.
    """
    for entropy in batch.entropies:
        zeta = min(max(zeta * (2 if entropy < target else 0.5), smallest), largest_zeta)
    log_p = batch.statistics.log_prob.where(batch.mask, 0.0)
    weights = grpo(batch, generator) * torch.where(
        batch.advantages > 0, 1 - zeta * log_p, (1 + zeta * log_p).clamp(min=0)
    )
    return as_terms(batch, weights)


def steer(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    smallest: float = 0.8,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Tensor:
    """STEER (arXiv 2510.10150, as in its code): weight exp(-k |W|), W = (A / p_old) p (1 - p)(log p + H).

    k is such that the token with the largest |W| of the batch gets the weight `smallest`. The code takes the largest of
    a micro-batch, and at least 0.02. PPO's clip is ours; its script has clip_high = 0.28 and a dual clip of 10.

    Coefficients: w = K smallest^(|W| / max |W|).
    Constants: those of its code; PPO's clip is ours.
    """
    p = batch.statistics.log_prob.exp()
    surprise = batch.statistics.log_prob + batch.statistics.entropy
    w = (batch.advantages * batch.ratio * (1 - p) * surprise).abs().where(batch.mask, 0.0)
    kept = grpo(batch, generator, clip_low=clip_low, clip_high=clip_high)
    return kept * smallest ** (w / w.max().clamp(min=torch.finfo(w.dtype).tiny))


def covariance_aware(batch: TokenBatch, generator: torch.Generator) -> Tensor:
    """Covariance-aware GRPO (arXiv 2605.11538, as reported): weight exp(-c^2 / 2 sigma^2), scaled to mean 1.

    c as in `clip_cov`; sigma its deviation over the batch.

    Coefficients: w = K exp(-c^2 / (2 sigma^2)), over its mean.
    Constants: as reported.
    """
    c = covariance(batch)
    weights = (-0.5 * (c / c[batch.mask].std(correction=0).clamp(min=1e-6)).square()).exp()
    return grpo(batch, generator) * weights / weights[batch.mask].mean()


def entropy_bonus(batch: TokenBatch, generator: torch.Generator, *, coefficient: float = 0.01) -> Terms:
    """GRPO with an entropy bonus (arXiv 1602.01783): + coefficient H at every response token's state.

    Coefficients: w = K; h = coefficient.
    Constants: ours.
    """
    return as_terms(batch, grpo(batch, generator), entropy=coefficient * batch.mask)


def adaptive_entropy_bonus(
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    target: float = 0.2,
    step: float = 0.005,
    highest: float | None = None,
) -> Terms:
    """An entropy bonus whose coefficient follows entropy (arXiv 2505.22312, Skywork-OR1).

    From 0 it rises by `step`, to at most `highest`, after each batch whose mean entropy is below `target` and falls by
    `step`, not below 0, after each above; it applies only while entropy is at most the target. `step` is TRL's, whose
    bound is 1; the authors' scripts have 1e-4 and 0.005, and a new coefficient acts a batch later there.

    Coefficients: w = K; h = coefficient, which moves by step a batch, 0 while entropy is above the target.
    Constants: target 0.2 as in the authors' scripts, step of TRL.
    """
    coefficient = 0.0
    for entropy in batch.entropies:
        coefficient = max(0.0, coefficient + (step if entropy < target else -step))
        coefficient = coefficient if highest is None else min(coefficient, highest)
    active = bool(batch.entropies) and batch.entropies[-1] <= target
    return as_terms(batch, grpo(batch, generator), entropy=coefficient * active * batch.mask)


def reference_kl(batch: TokenBatch, generator: torch.Generator, *, coefficient: float) -> Terms:
    """GRPO's penalty (arXiv 2402.03300, eq. 4): minus coefficient times its estimate of KL(policy || reference).

    With d = log p_reference - log p the estimate is e^d - d - 1 a token, so the coefficient of log p is
    -coefficient (1 - e^d). Its mean is that divergence; the mean of its gradient, tokens taken as given, is that of
    KL(reference || policy).

    Coefficients: w = K; b = coefficient (p_reference / p - 1).
    Constants: none.

    Raises:
        ValueError: the batch has no `reference`.
    """
    if batch.reference is None:
        raise ValueError("reference_kl needs the batch's reference, log-probabilities under the policy to stay near")
    difference = (batch.reference - batch.statistics.log_prob).where(batch.mask, 0.0)
    return as_terms(batch, grpo(batch, generator), log_prob=coefficient * difference.expm1())


def sign_weights(batch: TokenBatch, generator: torch.Generator, *, strength: float) -> Tensor:
    """EntroPIC's weighting (arXiv 2511.15248, as reported): 1 - strength where A > 0, 1 + strength where A < 0.

    There a proportional-integral controller moves the strength with entropy, by 1 and 0.01 a nat (as in the code of
    arXiv 2604.26326): `control.TargetEntropy` with effect 0.04, horizon 25 and a strength from -1 to 1.

    Coefficients: w = K (1 - strength) where A > 0, K (1 + strength) where A < 0.
    Constants: none; its controller moves the strength.
    """
    return grpo(batch, generator) * (1 - strength * batch.advantages.sign())


def covariance(batch: TokenBatch) -> Tensor:
    """(A - mean A)(log p - mean log p) of each token, means over the batch (arXiv 2505.22617)."""
    a, log_p = batch.advantages, batch.statistics.log_prob
    return ((a - a[batch.mask].mean()) * (log_p - log_p[batch.mask].mean())).where(batch.mask, 0.0)


def random_subset(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A bool mask of `count` of the true entries of `candidates`, each subset equally likely."""
    places = candidates.flatten().nonzero().squeeze(-1)
    if not 0 <= count <= len(places):
        raise ValueError(f"count is {count}, expected 0 to {len(places)}, the number of candidates")
    chosen = places[torch.randperm(len(places), generator=generator)[:count]]
    return torch.zeros_like(candidates).flatten().index_fill(0, chosen, True).view_as(candidates)


def largest(values: Tensor, candidates: Tensor, count: int) -> Tensor:
    """A bool mask of the `count` true entries of `candidates` with the largest values; the first of equals."""
    places = candidates.flatten().nonzero().squeeze(-1)
    order = values.flatten()[places].argsort(descending=True, stable=True)
    return torch.zeros_like(candidates).flatten().index_fill(0, places[order[:count]], True).view_as(candidates)


def as_terms(
    batch: TokenBatch, weights: Tensor, *, log_prob: Tensor | None = None, entropy: Tensor | None = None
) -> Terms:
    """The terms of a rule that returned weights alone, or some of them: floats, 0 where nothing is given."""
    zero = torch.zeros_like(batch.advantages)
    return Terms(
        weights.to(zero.dtype),
        zero if log_prob is None else log_prob.to(zero.dtype),
        zero if entropy is None else entropy.to(zero.dtype),
    )


RULES: dict[str, Callable[..., Tensor | Terms]] = {
    rule.__name__: rule
    for rule in (
        grpo,
        on_policy,
        clip_b,
        clip_v,
        matched_mask,
        masked_share,
        intervention,
        top_entropy,
        clip_cov,
        kl_cov,
        advantage_reweighting,
        rare_positives,
        w_reinforce,
        ce_gppo,
        cispo,
        sapo,
        gmpo,
        aspo,
        entrocraft,
        gspo,
        entropy_ratio_clipping,
        opefo,
        repo,
        repo_r,
        steer,
        covariance_aware,
        entropy_bonus,
        adaptive_entropy_bonus,
        reference_kl,
        sign_weights,
    )
}
