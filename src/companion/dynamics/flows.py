r"""A softmax bandit under gradient flow: the fields that move its logits, an integrator, and the paths in closed form.

One state with K arms, rewards R of shape (K,) and policy p = softmax(z); A_i = R_i - p.R. The expected policy gradient
moves the logits by dz/dt = sum_k p_k A_k (e_k - p) = p A; a unit of t is one step at learning rate 1, or 1/eta steps at
rate eta. Paths of two arms are given by the difference s = z_1 - z_2 of their logits, from a tie, s = 0.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from scipy.integrate import quad, solve_ivp
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax, xlogy

Field = Callable[[np.ndarray], np.ndarray]  # logits (K,) to their velocity (K,)


def policy_gradient(rewards: Sequence[float], *, gain: Callable[[float], float] = lambda rate: 1.0) -> Field:
    """dz/dt = gain(p.R) p A: REINFORCE with the mean reward as its baseline, and with a gain of `batches` GRPO."""
    rewards = np.asarray(rewards, dtype=float)

    def field(z: np.ndarray) -> np.ndarray:
        p = softmax(z)
        return gain(p @ rewards) * p * (rewards - p @ rewards)

    return field


def natural_gradient(rewards: Sequence[float]) -> Field:
    """dz/dt = R, up to what softmax does not see: the gradient divided by the Fisher matrix diag(p) - p p'."""
    rewards = np.asarray(rewards, dtype=float)
    return lambda z: rewards - rewards.mean()


def sign_descent(rewards: Sequence[float]) -> Field:
    """dz/dt = sign(p A): Adam where its averages have settled and the gradient has no noise (arXiv 1705.07774)."""
    rewards = np.asarray(rewards, dtype=float)
    return lambda z: np.sign(rewards - softmax(z) @ rewards)


def regularised(rewards: Sequence[float], reference: Sequence[float], beta: float) -> Field:
    """Gradient ascent on E[R] - beta KL(p || softmax(reference)), in nats.

    With a uniform reference it is E[R] + beta H up to a constant: an entropy bonus.
    """
    rewards, log_reference = np.asarray(rewards, dtype=float), log_softmax(reference)

    def field(z: np.ndarray) -> np.ndarray:
        log_p = log_softmax(z)
        p, value = np.exp(log_p), rewards - beta * (log_p - log_reference)
        return p * (value - p @ value)

    return field


def masked(rewards: Sequence[float], mu: float) -> Field:
    """dz/dt = sum_k keep_k p_k A_k (e_k - p): Clip_B and Clip_V as released mask arms with A < 0 and D < -mu sigma.

    sigma is the deviation of D under p. In a batch of one state the two methods are one: the batch mean of S is E_p[S].
    """
    rewards = np.asarray(rewards, dtype=float)

    def field(z: np.ndarray) -> np.ndarray:
        log_p = log_softmax(z)
        p, advantages = np.exp(log_p), rewards - np.exp(log_p) @ rewards
        s = p * (log_p - p @ log_p)
        d = s - p @ s
        keep = (advantages >= 0) | (d >= -mu * np.sqrt(p @ d**2))
        pull = keep * p * advantages
        return pull - pull.sum() * p

    return field


def integrate(field: Field, start: Sequence[float], times: Sequence[float]) -> np.ndarray:
    """Logits (T, K) at `times` (ascending, the first is that of `start`), to about 1e-11 (DOP853)."""
    solution = solve_ivp(
        lambda _, z: field(z), (times[0], times[-1]), start, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-13
    )
    if not solution.success:
        raise ArithmeticError(f"the flow could not be integrated: {solution.message}")
    return solution.y.T


def entropy(logits: np.ndarray) -> np.ndarray:
    """H of logits (..., K), shape (...), in nats."""
    p = softmax(logits, axis=-1)
    return -xlogy(p, p).sum(-1)


def entropy_along(field: Field, times: Sequence[float]) -> np.ndarray:
    """H (T,) of two arms that start from a tie at time 0, at `times` (ascending, above 0), integrated; nats."""
    return entropy(integrate(field, [0, 0], np.append(0, times))[1:])


def two_arm_entropy(s: np.ndarray) -> np.ndarray:
    """H of two arms whose logits differ by s >= 0, in nats: p_2 = 1 / (1 + e^s), and about (1 + s) e^{-s} late."""
    return np.log1p(np.exp(-s)) + s * np.exp(-s) / (1 + np.exp(-s))


def two_arms(times: Sequence[float], gap: float = 1.0) -> np.ndarray:
    """s of the policy gradient, the root of s + sinh s = gap t, where `gap` is R_1 - R_2."""
    return np.array([_root(lambda s: s + np.sinh(s), gap * t) for t in times])


def two_arms_standardised(times: Sequence[float]) -> np.ndarray:
    """s = 2 arsinh(t / 2): rewards 1 and 0, advantages divided by their deviation sqrt(p_1 p_2), G -> infinity."""
    return 2 * np.arcsinh(np.asarray(times) / 2)


def two_arms_masked(times: Sequence[float], mu: float, gap: float = 1.0) -> np.ndarray:
    """s of `masked` with mu >= 1: as `two_arms` until p_1 / p_2 = mu^2, then F(s) = F(2 log mu) + 2 gap (t - t_mu).

    F(s) = -e^{-s} + 3 s + 3 e^s + e^{2s} / 2, and t_mu is when the mask begins to act.
    """
    begins = 2 * np.log(mu)
    waiting = begins + np.sinh(begins)  # gap t_mu
    free = two_arms(np.minimum(gap * np.asarray(times), waiting))

    def later(s: float) -> float:
        return -np.exp(-s) + 3 * s + 3 * np.exp(s) + np.exp(2 * s) / 2

    return np.array(
        [
            s if gap * t <= waiting else _root(later, later(begins) + 2 * (gap * t - waiting))
            for s, t in zip(free, times)
        ]
    )


def _root(increasing: Callable[[float], float], value: float) -> float:
    """Where a function on s >= 0 that grows at least like s takes `value`, from its value at 0 on."""
    upper = 1.0
    while increasing(upper) < value:
        upper *= 2
    return float(brentq(lambda s: increasing(s) - value, 0.0, upper, xtol=1e-14, rtol=1e-14))


def many_arms(
    rewards: Sequence[float], start: Sequence[float], clock: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """The policy gradient's path of K arms in its own clock tau, d tau = dt / Z with Z = sum_i e^{z_i}.

    The flow keeps sum_i z_i, and d(e^{-z_i} - e^{-z_j}) / d tau = R_j - R_i, so that e^{-z_i} = w + b_i where
    b_i = e^{-z_i(0)} - R_i tau, and w is the one number that keeps the sum of the logits.

    Args:
        clock: tau, ascending from 0.

    Returns:
        times (T,), from a quadrature of Z, and logits (T, K).
    """
    rewards, start = np.asarray(rewards, dtype=float), np.asarray(start, dtype=float)

    def logits(tau: float) -> np.ndarray:
        b = np.exp(-start) - rewards * tau
        above = b - b.min()  # e^{-z_i} = e^y + above_i, every digit of it

        def sum_of_logits(y: float) -> float:
            return -np.log(np.exp(y) + above).sum()

        y = brentq(lambda y: sum_of_logits(y) - start.sum(), -600.0, 600.0, xtol=1e-13, rtol=1e-14)
        return -np.log(np.exp(y) + above)

    def mass(tau: float) -> float:
        return np.exp(logits(tau)).sum()

    parts = [quad(mass, a, b, epsabs=0, epsrel=1e-12)[0] for a, b in pairwise(clock)]
    return np.concatenate([[0.0], np.cumsum(parts)]), np.array([logits(tau) for tau in clock])


def fixed_point(rewards: Sequence[float], reference: Sequence[float], beta: float) -> np.ndarray:
    """Logits (K,) of p proportional to softmax(reference) exp(R / beta), where `regularised` comes to rest."""
    return np.asarray(reference, dtype=float) + np.asarray(rewards) / beta


def regularised_natural(
    rewards: Sequence[float], reference: Sequence[float], beta: float, start: Sequence[float], times: Sequence[float]
) -> np.ndarray:
    """Log-probabilities (T, K): natural gradient on the objective of `regularised` goes straight to its fixed point.

    log p(t) is, up to its normaliser, e^{-beta t} log p(0) + (1 - e^{-beta t}) log p(infinity).
    """
    left = np.exp(-beta * np.asarray(times))[:, None]
    return log_softmax(left * start + (1 - left) * fixed_point(rewards, reference, beta), axis=-1)


def adam_speed(learning_rate: float, beta2: float = 0.999) -> float:
    """What share of `sign_descent`'s speed Adam keeps on two arms' exact gradient, late.

    The gradient falls as e^{-2 x eta n} with the step n and the share x. Adam's second moment remembers larger ones:
    v = g^2 (1 - beta2) / (1 - beta2 - 4 x eta), so x = sqrt(1 - c x) with c = 4 eta / (1 - beta2).
    """
    c = 4 * learning_rate / (1 - beta2)
    return float((np.sqrt(c**2 + 4) - c) / 2)


def adam_path(
    field: Field, start: Sequence[float], steps: int, learning_rate: float, *, beta1: float = 0.9, beta2: float = 0.999
) -> np.ndarray:
    """Logits (steps + 1, K) of Adam (arXiv 1412.6980) that climbs along `field`, the exact gradient; epsilon 0."""
    z = np.array(start, dtype=float)
    first, second, path = np.zeros_like(z), np.zeros_like(z), [z]
    for n in range(1, steps + 1):
        gradient = field(z)
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        z = z + learning_rate * (first / (1 - beta1**n)) / np.sqrt(second / (1 - beta2**n))
        path.append(z)
    return np.array(path)
