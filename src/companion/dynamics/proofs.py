"""What `flows` states of paths and fixed points, as lists of SymPy expressions that are zero exactly if it is true."""

from collections.abc import Sequence

import sympy
from sympy import Expr

from companion.mathematics.symbolic import SymbolicPolicy


def _along(a: SymbolicPolicy, expression: Expr, velocity: Sequence[Expr]) -> Expr:
    """d expression / dt where the logits move with `velocity`."""
    return sum(v * a.derivative(expression, i) for i, v in enumerate(velocity))


def _advantages(a: SymbolicPolicy, values: Sequence[Expr]) -> list[Expr]:
    mean = sum(p * value for p, value in zip(a.p, values))
    return [value - mean for value in values]


def _policy_gradient(a: SymbolicPolicy, values: Sequence[Expr]) -> list[Expr]:
    return [p * advantage for p, advantage in zip(a.p, _advantages(a, values))]


def two_arms() -> list[Expr]:
    """d(s + sinh s) / dt - (R_1 - R_2)."""
    a, gap = SymbolicPolicy(2), sympy.Symbol("gap", positive=True)
    odds = a.w[0] / a.w[1]
    clock = sympy.log(a.w[0]) - sympy.log(a.w[1]) + (odds - 1 / odds) / 2
    return [_along(a, clock, _policy_gradient(a, (gap, 0))) - gap]


def two_arms_standardised() -> list[Expr]:
    """d(2 sinh(s / 2)) / dt - 1, where the advantages of rewards 1 and 0 are divided by sqrt(p_1 p_2)."""
    a = SymbolicPolicy(2)
    velocity = [v / sympy.sqrt(a.p[0] * a.p[1]) for v in _policy_gradient(a, (1, 0))]
    root = sympy.sqrt(a.w[0]) / sympy.sqrt(a.w[1])
    return [_along(a, root - 1 / root, velocity) - 1]


def masked() -> list[Expr]:
    """Of two arms: D_2^2 p_2 - p_1 sigma^2, where the mask begins; and dF(s) / dt - 2 (R_1 - R_2), when it acts."""
    a, gap = SymbolicPolicy(2), sympy.Symbol("gap", positive=True)
    d = [s - a.baseline for s in a.s]
    variance = sum(p * x**2 for p, x in zip(a.p, d))
    pull = a.p[0] * _advantages(a, (gap, 0))[0]  # of the rewarded arm, along e_1 - p
    odds = a.w[0] / a.w[1]
    path = -1 / odds + 3 * sympy.log(a.w[0]) - 3 * sympy.log(a.w[1]) + 3 * odds + odds**2 / 2
    return [d[1] ** 2 * a.p[1] - a.p[0] * variance, _along(a, path, (pull * (1 - a.p[0]), -pull * a.p[1])) - 2 * gap]


def many_arms(size: int) -> list[Expr]:
    """The sum of the velocities, and Z d(e^{-z_i} - e^{-z_1}) / dt + R_i - R_1 for every other arm."""
    a, rewards = SymbolicPolicy(size), sympy.symbols(f"r1:{size + 1}", real=True)
    velocity, mass = _policy_gradient(a, rewards), sum(a.w)
    return [sum(velocity)] + [
        mass * _along(a, 1 / a.w[i] - 1 / a.w[0], velocity) + rewards[i] - rewards[0] for i in range(1, size)
    ]


def fixed_point(size: int) -> list[Expr]:
    """At z = log ref + R / beta: the velocity of `flows.regularised`, and its Jacobian + beta (diag(p) - p p')."""
    a = SymbolicPolicy(size)
    beta = sympy.Symbol("beta", positive=True)
    logits = sympy.symbols(f"z1:{size + 1}", real=True)  # of the fixed point
    value = [-beta * (sympy.log(w) - z) for w, z in zip(a.w, logits)]  # R - beta log(p / ref), up to a constant
    velocity = _policy_gradient(a, value)
    rest = {w: sympy.exp(z) for w, z in zip(a.w, logits)}
    jacobian = [
        a.derivative(velocity[i], j) + beta * a.p[i] * (int(i == j) - a.p[j]) for i in range(size) for j in range(size)
    ]
    return [difference.subs(rest) for difference in velocity + jacobian]
