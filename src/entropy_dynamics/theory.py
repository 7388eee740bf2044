r"""Closed forms for how one decoding state's entropy answers a change of its logits.

Everywhere `logits` z has shape (..., V): one decoding state per leading index, the vocabulary last. The
policy is p = softmax(z), its entropy H = -sum_i p_i log p_i is in nats. Results keep the dtype of the
logits. A logit of -inf is a masked token (p = 0, S = 0). NaN, +inf or a state without any finite logit
raise ValueError. "Identity n" is the n-th of docs/identities.md, the relations that the notebooks derive beside the
lemma, theorems and corollaries of the paper (arXiv 2602.03392).
"""

import torch
from torch import Tensor


def check_logits(logits: Tensor) -> None:
    """Raise ValueError unless `logits` is a floating (..., V) tensor of policies that softmax can express."""
    if not logits.is_floating_point():
        raise ValueError(f"logits must be a floating-point tensor, got {logits.dtype}; convert them first")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits need a vocabulary as their last axis, got shape {tuple(logits.shape)}")
    check_largest(logits.amax(-1))


def check_largest(largest: Tensor) -> None:
    """Raise ValueError unless every state's largest logit is finite; NaN, +inf and all -inf all show there."""
    if not largest.isfinite().all():
        bad = largest[~largest.isfinite()][0].item()
        raise ValueError(
            f"the largest logit of a state is {bad}, expected a finite number: "
            "logits may be -inf (masked tokens), but not NaN, +inf, or -inf for the whole vocabulary"
        )


def check_shape(tokens: Tensor, logits: Tensor) -> None:
    """Raise ValueError unless `tokens` are integers, one per state of `logits`."""
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"tokens must be integer vocabulary indices, got {tokens.dtype}")
    if tokens.shape != logits.shape[:-1]:
        raise ValueError(
            f"tokens have shape {tuple(tokens.shape)}, expected {tuple(logits.shape[:-1])}: one token per state"
        )


def check_tokens(tokens: Tensor, logits: Tensor) -> None:
    """Raise ValueError unless `tokens` holds one vocabulary index per state of `logits`."""
    check_shape(tokens, logits)
    size, tokens = logits.shape[-1], tokens.long()  # unsigned tensors have no minimum, and small ones no such size
    if tokens.numel() and (tokens.min().item() < 0 or tokens.max().item() >= size):
        bad = next(token for token in tokens.flatten().tolist() if not 0 <= token < size)
        raise ValueError(
            f"token {bad} is outside the vocabulary 0..{size - 1}; give padding any token of it, such as "
            "tokens.clamp(min=0), and leave it out by the mask afterwards"
        )


def log_policy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Policy p and log p, both (..., V), with log p set to 0 where p = 0 so that p log p is 0 there."""
    check_logits(logits)
    log_p = logits.log_softmax(-1)
    return log_p.exp(), log_p.nan_to_num(neginf=0.0)  # checked: there are no others; faster than a mask


def entropy(logits: Tensor) -> Tensor:
    """H = -sum_i p_i log p_i, shape (...), in nats, between 0 and log V."""
    p, log_p = log_policy(logits)
    return -_dot(p, log_p)


def discriminator(logits: Tensor) -> Tensor:
    """Entropy discriminator S_i = p_i (H + log p_i) of every token, shape (..., V), in nats.

    S = -dH/dz (identity 1), so its sum over the vocabulary is 0. Range: at least -0.2239 for any policy.
    """
    p, log_p = log_policy(logits)
    return p * (log_p - _dot(p, log_p).unsqueeze(-1))


def expected_discriminator(logits: Tensor) -> Tensor:
    """The baseline E_p[S] = sum_i p_i S_i = Cov_p(p, log p), shape (...), in nats; never negative (identity 3)."""
    p, log_p = log_policy(logits)
    mean = _dot(p, p).unsqueeze(-1)
    return _dot(p, (p - mean) * (log_p - mean.log()))  # no term is negative, so rounding cannot make the sum so


def sign_boundary(logits: Tensor) -> Tensor:
    """e^{-H}, shape (...): S_i > 0 exactly for the tokens with p_i above it (the sign rule of Theorem 3.2)."""
    return (-entropy(logits)).exp()


def sign_rule_radius(logits: Tensor) -> Tensor:
    """|H + log p_i|, shape (..., V): how far the sign rule surely reaches.

    For delta = eps e_i the exact entropy change has the sign of -eps S_i whenever |eps| is at most this radius;
    where that sign is negative (entropy falls), it has it at every eps. No larger multiple of |H + log p_i| would do.
    Derived in notebook 01.
    """
    _, log_p = log_policy(logits)
    return (log_p + entropy(logits).unsqueeze(-1)).abs()


def disagreement_band(logits: Tensor) -> Tensor:
    """Where 0 < S_i < E_p[S], bool (..., V): Theorems 3.2 and 3.3 give the entropy change opposite signs there."""
    s = discriminator(logits)
    return (s > 0) & (s < expected_discriminator(logits).unsqueeze(-1))


def single_logit_update(logits: Tensor, token: Tensor, eps: float | Tensor) -> Tensor:
    """Logit change eps e_k, shape (..., V): only the logit of `token` (...) moves (Lemma 3.1, Theorem 3.2)."""
    check_logits(logits)
    check_tokens(token, logits)
    return torch.zeros_like(logits).scatter_(-1, token.long().unsqueeze(-1), 1.0) * _per_state(eps, logits)


def grpo_logit_update(logits: Tensor, token: Tensor, alpha: float | Tensor) -> Tensor:
    """Logit change alpha (e_k - p), shape (..., V): a GRPO step on `token` (...) (Theorem 3.3).

    alpha = eta r A is the effective step: learning rate, importance ratio and advantage; a float or (...).
    """
    p, _ = log_policy(logits)
    return single_logit_update(logits, token, alpha) - _per_state(alpha, logits) * p


def probability_change(logits: Tensor, delta: Tensor) -> Tensor:
    """First-order change of the policy p under the logit change `delta`, shape (..., V).

    dp_i = p_i (dz_i - p . dz); for delta = eps e_k this is Lemma 3.1.
    """
    p, _ = log_policy(logits)
    return p * (delta - _dot(p, delta).unsqueeze(-1))


def first_order_change(logits: Tensor, delta: Tensor) -> Tensor:
    """dH = -S . delta, shape (...), in nats (identity 1; Theorems 3.2 and 3.3 are its two special cases)."""
    return -_dot(discriminator(logits), delta)


def covariance_change(logits: Tensor, delta: Tensor) -> Tensor:
    """dH = -Cov_{i~p}(log p_i, delta_i), shape (...), in nats: `first_order_change` as a covariance (identity 2)."""
    p, log_p = log_policy(logits)
    return -_dot(p * log_p, delta - _dot(p, delta).unsqueeze(-1))


def second_order_change(logits: Tensor, delta: Tensor) -> Tensor:
    """The quadratic term of the entropy change alone, shape (...), in nats (identity 6).

    1/2 delta' (d2H/dz2) delta = -1/2 sum_i (p_i + S_i) (delta_i - p.delta)^2.
    """
    p, _ = log_policy(logits)
    centred = delta - _dot(p, delta).unsqueeze(-1)
    return -0.5 * _dot(p + discriminator(logits), centred**2)


def entropy_hessian(logits: Tensor) -> Tensor:
    """d2H/dz2 = -diag(S + p) + p S' + S p' + p p', shape (..., V, V) (identity 6); for small vocabularies."""
    p, _ = log_policy(logits)
    s = discriminator(logits)
    column_p, column_s = p.unsqueeze(-1), s.unsqueeze(-1)
    return (
        column_p * s.unsqueeze(-2) + column_s * p.unsqueeze(-2) + column_p * p.unsqueeze(-2) - torch.diag_embed(s + p)
    )


def single_logit_second_order_change(logits: Tensor, token: Tensor, eps: float | Tensor) -> Tensor:
    """The quadratic term for eps e_k, shape (...): -1/2 eps^2 [S_k (1 - 2 p_k) + p_k (1 - p_k)] (identity 6)."""
    p_k, s_k = (_pick(x, token) for x in (log_policy(logits)[0], discriminator(logits)))
    return -0.5 * eps**2 * (s_k * (1 - 2 * p_k) + p_k * (1 - p_k))


def grpo_second_order_change(logits: Tensor, token: Tensor, alpha: float | Tensor) -> Tensor:
    """The quadratic term for alpha (e_k - p), shape (...), from four moments of the policy (identity 6).

    The moments sum p^2, sum p^3, sum p^2 log p and sum p^3 log p are all that is needed of the vocabulary.
    """
    p, log_p = log_policy(logits)
    h, square, cube = -_dot(p, log_p), _dot(p, p), _dot(p, p**2)
    square_log, cube_log = _dot(p**2, log_p), _dot(p**3, log_p)
    p_k, s_k = _pick(p, token), _pick(discriminator(logits), token)
    baseline = h * square + square_log
    p_delta = p_k - square
    s_delta = s_k - baseline
    weighted_square = (s_k + p_k) * (1 - 2 * p_k) + (1 + h) * cube + cube_log
    return 0.5 * alpha**2 * (-weighted_square + 2 * p_delta * s_delta + p_delta**2)


def entropy_bonus_change(logits: Tensor, beta: float | Tensor) -> Tensor:
    """First-order dH = beta sum_i S_i^2 of the logit change -beta S that an entropy bonus beta H makes (identity 5)."""
    return beta * discriminator(logits).square().sum(-1)


def exact_change(logits: Tensor, delta: Tensor) -> Tensor:
    """H(z + delta) - H(z), shape (...), in nats: nothing is neglected.

    With q = softmax(z + delta) the difference is -sum (q - p)(log p + H) - KL(q || p). Written so for steps
    up to 1, it does not subtract two nearly equal numbers: what rounding adds is a small multiple of the machine
    epsilon times the step, also where the step is tiny, and next to nothing where all of S is exactly zero.
    """
    p, log_p = log_policy(logits)
    h = -_dot(p, log_p)
    small_step = delta.abs().amax(-1) <= 1
    if not small_step.any():
        return entropy(logits + delta) - h
    step = delta.clamp(-1, 1)
    step = step - _dot(p, step).unsqueeze(-1)  # with mean zero, of which softmax sees nothing
    grown = torch.expm1(step)
    x = _dot(p, _psi(step, grown))  # q = p e^step / (1 + x)
    q_minus_p = p * (grown - x.unsqueeze(-1)) / (1 + x).unsqueeze(-1)
    kl = _dot(q_minus_p, step) - torch.log1p(x)
    change = -_dot(q_minus_p, log_p + h.unsqueeze(-1)) - kl
    return change if small_step.all() else torch.where(small_step, change, entropy(logits + delta) - h)


def psi(u: Tensor) -> Tensor:
    """e^u - 1 - u, never negative, to a dozen digits in float64 however small u is."""
    return _psi(u, torch.expm1(u))


def _psi(u: Tensor, expm1: Tensor) -> Tensor:
    series = u * u * (1 / 2 + u * (1 / 6 + u * (1 / 24 + u / 120)))
    return torch.where(u.abs() < 1e-3, series, expm1 - u)


def lowest_discriminator(entropy: Tensor) -> Tensor:
    """-e^{-1-H}: the lowest value of S at entropy H, taken where p = e^{-1-H} (identity 4).

    A policy attains it only if the binary entropy of e^{-1-H} does not exceed H, that is for H >= 0.524.
    """
    return -torch.exp(-1 - entropy)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):  # which would take the products in half precision
        return torch.linalg.vecdot(a, b)


def _per_state(step: float | Tensor, logits: Tensor) -> float | Tensor:
    return step.to(logits.dtype).unsqueeze(-1) if isinstance(step, Tensor) else step


def _pick(values: Tensor, token: Tensor) -> Tensor:
    check_tokens(token, values)
    return values.gather(-1, token.long().unsqueeze(-1)).squeeze(-1)
