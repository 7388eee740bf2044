"""What decides the claims of notebook 05 on flows: each check returns whether its claim holds, and the evidence.

Paths in closed form are compared with an integrator at times of up to 1,000, limits along decades of time.
"""

from collections.abc import Mapping

import numpy as np
from scipy.special import softmax

from companion.dynamics import flows, proofs
from companion.mathematics import symbolic
from companion.mathematics.batches import VARIANTS, gain

Decision = tuple[bool, str]
Paths = Mapping[str, tuple[np.ndarray, np.ndarray]]  # by name, what a formula says and what was integrated
TIMES = np.array([0, 0.3, 1, 3, 10, 30, 100, 300, 1000])
LATE = np.geomspace(1e2, 1e8, 4)
FOUR = (1.0, 0.8, 0.3, 0.0)  # rewards of four arms


def same(paths: Paths, *, tolerance: float = 1e-8) -> Decision:
    """Whether formula and integration agree everywhere to `tolerance`, and the path moves by far more than that."""
    gaps = {name: float(np.abs(np.subtract(*pair)).max()) for name, pair in paths.items()}
    moves = min(float(np.ptp(closed)) for closed, _ in paths.values())
    line = f"formula and integrator agree to {tolerance:g} ({', '.join(paths)})"
    if max(gaps.values()) > tolerance:
        line = "formula and integrator differ by " + ", ".join(f"{gap:.1e} ({name})" for name, gap in gaps.items())
    return max(gaps.values()) <= tolerance and moves > 1e4 * tolerance, line


def approaches(ratios: Mapping[str, np.ndarray], *, within: float) -> Decision:
    """Whether each ratio, at times that grow by a constant factor, draws nearer to 1 each time and ends `within`.

    It may also be there all along: what is nearer than a hundredth of `within` need not get nearer still.
    """
    distances = {name: np.abs(np.asarray(ratio, dtype=float) - 1) for name, ratio in ratios.items()}
    nearer = all(((d[1:] < d[:-1]) | (d[1:] < within / 100)).all() for d in distances.values())
    line = "; ".join(f"{name}: {', '.join(f'{x:.3f}' for x in ratio)}" for name, ratio in ratios.items())
    return nearer and all(d[-1] < within for d in distances.values()), f"ratios to the limit {line}"


def slopes(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """d log values / d log times between neighbours: the exponents of a power law, piece by piece."""
    return np.diff(np.log(values)) / np.diff(np.log(times))


def winner_takes_all(ratio: np.ndarray, natural: np.ndarray) -> Decision:
    """Whether, of two arms of equal reward, the weaker vanishes beside the stronger, but not under natural gradient.

    Args:
        ratio, natural: (T,), the weaker one's probability over the stronger one's, under either flow.
    """
    falls, drift = (np.diff(ratio) < 0).all(), float(np.abs(natural / natural[0] - 1).max())
    line = (
        f"the weaker of two equal arms falls from {ratio[0]:.2f} to {ratio[-1]:.1e} of the stronger, "
        f"under natural gradient it ends at {natural[-1]:.2f} of it"
    )
    return bool(falls and ratio[-1] < 0.01 and drift < 1e-9), line


def grouped(variant: str, size: int) -> flows.Field:
    """The flow of two arms, rewards 1 and 0, with the gain of groups.

    Rewards 0 and -1 in place of 1 and 0 give the same advantages, but E[R] = -p_2 keeps its digits when p_2 is small.
    The gain is the same for p_2 as for q = 1 - p_2.
    """
    return flows.policy_gradient([0, -1], gain=lambda reward: gain(VARIANTS[variant], -reward, size))


def two_arms(gap: float) -> Decision:
    """s + sinh s = gap t, and H over (1 + log x) / x with x = 2 gap t goes to 1."""
    proven = symbolic.all_zero(proofs.two_arms())
    path = _difference(flows.policy_gradient([gap, 0]))
    held, line = same({"two arms": (flows.two_arms(TIMES, gap), path)})
    x = 2 * gap * LATE
    entropies = flows.two_arm_entropy(flows.two_arms(LATE, gap))
    limit, ratios = approaches({"H / law": entropies / ((1 + np.log(x)) / x)}, within=0.01)
    return proven and held and limit, f"d(s + sinh s)/dt = gap (SymPy); {line}; {ratios}"


def groups(size: int) -> Decision:
    """Standardised: 2 sinh(s/2) = t for G -> infinity, p_2 ~ 1/t for G = 2, 3 and `size`; e^{-kappa t} if filtered.

    The factor of 1/t is that of the plain policy gradient over (G-1)/sqrt(G), which is larger than 1 from G = 3 on.
    """
    proven = symbolic.all_zero(proofs.two_arms_standardised())
    infinite = flows.policy_gradient([0, -1], gain=lambda reward: 1 / np.sqrt(-reward * (1 + reward)))
    path = flows.two_arms_standardised(TIMES)
    held, line = same({"standardised, G to infinity": (path, _difference(infinite))})
    decades = np.array([0, 1e1, 1e2, 1e3, 1e4])
    sizes = (2, 3, size)
    plain, *p2 = (
        softmax(flows.integrate(field, [0, 0], decades), axis=-1)[1:, 1]
        for field in (flows.policy_gradient([0, -1]), *(grouped("standardised", g) for g in sizes))
    )
    even = np.linspace(0, 25, 6)
    filtered = softmax(flows.integrate(grouped("standardised, filtered", size), [0, 0], even), axis=-1)[:, 1]
    kappa = 2 * (size - 1) / size**1.5
    limits, ratios = approaches(
        {
            **{
                f"p_2 times 2 t (G-1)/sqrt(G), G = {g}": p * 2 * decades[1:] * (g - 1) / np.sqrt(g)
                for g, p in zip(sizes, p2)
            },
            "filtered, rate / kappa": -np.diff(np.log(filtered)) / np.diff(even) / kappa,
        },
        within=0.02,
    )
    slower, *faster = (bool((p < plain).all()) for p in p2)
    return proven and held and limits and all(faster) and not slower, f"2 sinh(s/2) = t (SymPy); {line}; {ratios}"


def natural(gap: float) -> Decision:
    """s = gap t under natural gradient and s = 2 t under sign descent, two arms from a tie."""
    short = TIMES[:5]
    fields = {
        "natural gradient": (gap, flows.natural_gradient([gap, 0])),
        "sign descent": (2.0, flows.sign_descent([gap, 0])),
    }
    held, line = same({name: (speed * short, _difference(field, short)) for name, (speed, field) in fields.items()})
    return held, f"s = gap t and s = 2 t; {line}"


def adam(learning_rate: float) -> Decision:
    """Late, Adam on the exact gradient of two arms keeps the share `flows.adam_speed` of sign descent's speed."""
    path = flows.adam_path(flows.policy_gradient([1, 0]), [0, 0], 16_000, learning_rate)
    s, share = (path[:, 0] - path[:, 1])[::4000], flows.adam_speed(learning_rate)
    ratio = np.diff(s)[1:] / (4000 * 2 * learning_rate * share)
    going, ratios = approaches({"speed / predicted": ratio}, within=0.01)
    return going, f"at learning rate {learning_rate:g} Adam keeps {share:.2f} of sign descent's speed; {ratios}"


def fixed_point() -> Decision:
    """Four arms with a KL term and with a bonus come to rest at ref exp(R / beta), at the rate of the Jacobian."""
    reference, beta = [0.5, 0.0, -0.5, 0.1], 0.4
    proven = all(symbolic.all_zero(proofs.fixed_point(size)) for size in (2, 3))
    paths, tails = {}, {}
    for name, where in (("KL", reference), ("entropy bonus", [0.0] * 4)):
        p = softmax(flows.fixed_point(FOUR, where, beta))
        slowest = np.linalg.eigvalsh(np.diag(p) - np.outer(p, p))[1]
        moments = np.array([0, 1, 2, 3, 4, 5]) * 2 / (beta * slowest)
        path = flows.integrate(flows.regularised(FOUR, where, beta), [0, 0, 0, 0], [*moments, 25 * moments[1]])
        paths[name] = p, softmax(path[-1])
        distance = np.linalg.norm(softmax(path[:-1], axis=-1) - p, axis=-1)
        tails[f"rate of {name}"] = -np.diff(np.log(distance)) / np.diff(moments) / (beta * slowest)
    held, line = same(paths)
    limits, ratios = approaches(tails, within=0.02)
    return proven and held and limits, f"rest and Jacobian (SymPy, V = 2, 3); {line}; {ratios}"


def masks(gap: float, mu: float) -> Decision:
    """F(s) of two arms; p_2 sqrt(4 gap t) goes to 1; of four arms all the worse become alike, at the power 1/2."""
    proven = symbolic.all_zero(proofs.masked())
    paths = {
        f"mu = {x:g}": (flows.two_arms_masked(TIMES, x, gap), _difference(flows.masked([gap, 0], x))) for x in (mu, 8.5)
    }
    held, line = same(paths)
    p2 = 1 / (1 + np.exp(flows.two_arms_masked(LATE, mu, gap)))
    decades = np.geomspace(1e3, 1e9, 7)
    p = softmax(flows.integrate(flows.masked(FOUR, mu), [0] * 4, np.append(0, decades)), axis=-1)[1:]
    rest, apart = 1 - p[:, 0], np.log(p[:, 1] / p[:, 3])
    power = -1 / (2 * len(FOUR))
    limits, ratios = approaches(
        {
            "two arms, p_2 sqrt(4 gap t)": p2 * np.sqrt(4 * gap * LATE),
            "four arms, power of 1 - p_1 over -1/2": slopes(decades, rest) / -0.5,
            f"power of log(p_2 / p_4) over {power:g}": slopes(decades, apart) / power,
        },
        within=0.02,
    )
    size, gaps = len(FOUR), FOUR[0] - np.array(FOUR[1:])
    constant = rest * np.sqrt(2 * size / (size - 1) * gaps.mean() * decades)
    slow, slowly = approaches({"1 - p_1 over its limit": constant}, within=0.03)
    return proven and held and limits and slow, f"the path (SymPy); {line}; {ratios}; {slowly}"


def many_arms() -> Decision:
    """The exact path of four arms, and p_i K gap_i t goes to 1 for each worse arm."""
    rewards = np.array(FOUR)
    proven = all(symbolic.all_zero(proofs.many_arms(size)) for size in (3, 4))
    uneven = [-0.8, 0.5, 0.0, 0.2]
    moments, path = flows.many_arms(rewards, uneven, [0, 0.2, 0.5, 1.0, 2.0])
    held, line = same({"four arms": (path, flows.integrate(flows.policy_gradient(rewards), uneven, moments))})
    moments, path = flows.many_arms(rewards, [0] * 4, np.append(0, np.geomspace(3, 300, 4)))
    p = softmax(path, axis=-1)[1:]
    limits, ratios = approaches(
        {f"p_{i + 1} K gap t": p[:, i] * 4 * (1 - rewards[i]) * moments[1:] for i in (1, 2, 3)}, within=0.01
    )
    return proven and held and limits, f"the clock (SymPy, K = 3, 4); {line}; {ratios}"


def equal_arms() -> Decision:
    """Of two arms of equal reward beside two worse ones the weaker vanishes as t^{-2/3}; natural gradient keeps it."""
    rewards, uneven = [1.0, 1.0, 0.3, 0.0], [0.3, 0.0, 0.0, 0.0]
    moments, path = flows.many_arms(rewards, uneven, np.append(0, np.geomspace(1e-2, 1e3, 61)))
    ratio = np.exp(path[:, 1] - path[:, 0])
    z = flows.integrate(flows.natural_gradient(rewards), uneven, np.linspace(0, 40, 41))
    won, line = winner_takes_all(ratio, np.exp(z[:, 1] - z[:, 0]))
    power, ratios = approaches({"power over -2/3": slopes(moments[31::10], ratio[31::10]) / (-2 / 3)}, within=0.02)
    return won and power, f"{line}; {ratios}"


def _difference(field: flows.Field, times: np.ndarray = TIMES) -> np.ndarray:
    """s of two arms from a tie, integrated."""
    z = flows.integrate(field, [0, 0], times)
    return z[:, 0] - z[:, 1]
