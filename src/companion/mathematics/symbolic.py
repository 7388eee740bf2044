"""The paper's first-order statements, and what lies beyond them, as SymPy identities: differences that must be zero.

The logits enter as weights w_i = exp(z_i) > 0, so that everything but the logarithms is rational and
d/dz_i = w_i d/dw_i.
"""

import sympy
from sympy import Expr, Symbol


class SymbolicPolicy:
    """softmax(z) over `size` tokens with p, log p, H, S and E_p[S] as SymPy expressions."""

    def __init__(self, size: int):
        if size < 1:
            raise ValueError(f"a policy needs at least 1 token, got {size}")
        self.w: tuple[Symbol, ...] = sympy.symbols(f"w1:{size + 1}", positive=True)
        total = sum(self.w)
        self.p = [w / total for w in self.w]
        self.log_p = [sympy.log(w) - sympy.log(total) for w in self.w]
        self.entropy = -sum(p * log_p for p, log_p in zip(self.p, self.log_p))
        self.s = [p * (self.entropy + log_p) for p, log_p in zip(self.p, self.log_p)]
        self.baseline = sum(p * s for p, s in zip(self.p, self.s))

    def derivative(self, expression: Expr, index: int) -> Expr:
        """d expression / d z_index."""
        return self.w[index] * sympy.diff(expression, self.w[index])


def _is(i: int, k: int) -> int:
    return int(i == k)


def lemma_3_1(size: int) -> list[Expr]:
    """dp_i / dz_k - p_i ([i = k] - p_k) for every pair of tokens."""
    a = SymbolicPolicy(size)
    pairs = [(i, k) for i in range(size) for k in range(size)]
    return [a.derivative(a.p[i], k) - a.p[i] * (_is(i, k) - a.p[k]) for i, k in pairs]


def theorem_3_2(size: int) -> list[Expr]:
    """dH/dz_k + S_k for every token."""
    a = SymbolicPolicy(size)
    return [a.derivative(a.entropy, k) + a.s[k] for k in range(size)]


def theorem_3_3(size: int) -> list[Expr]:
    """The derivative of H along e_k - p, plus S_k - E_p[S], for every token."""
    a = SymbolicPolicy(size)
    gradient = [a.derivative(a.entropy, i) for i in range(size)]
    along = [sum((_is(i, k) - a.p[i]) * gradient[i] for i in range(size)) for k in range(size)]
    return [along[k] + (a.s[k] - a.baseline) for k in range(size)]


def corollary_3_4(size: int) -> list[Expr]:
    """sum_k p_k (S_k - E_p[S])."""
    a = SymbolicPolicy(size)
    return [sum(p * (s - a.baseline) for p, s in zip(a.p, a.s))]


def covariance_form(size: int) -> list[Expr]:
    """-S . dz + Cov_p(log p, dz) for an arbitrary logit change dz, and E_p[S] - Cov_p(p, log p)."""
    a = SymbolicPolicy(size)
    change = sympy.symbols(f"d1:{size + 1}", real=True)
    first_order = -sum(s * d for s, d in zip(a.s, change))
    return [first_order + _covariance(a.p, a.log_p, change), a.baseline - _covariance(a.p, a.p, a.log_p)]


def hessian(size: int) -> list[Expr]:
    """d2H/dz_i dz_k + [i = k] (S_i + p_i) - p_i S_k - S_i p_k - p_i p_k for every pair of tokens."""
    a = SymbolicPolicy(size)
    gradient = [a.derivative(a.entropy, k) for k in range(size)]
    return [
        a.derivative(gradient[k], i)
        + _is(i, k) * (a.s[i] + a.p[i])
        - a.p[i] * a.s[k]
        - a.s[i] * a.p[k]
        - a.p[i] * a.p[k]
        for i in range(size)
        for k in range(size)
    ]


def second_order(size: int) -> list[Expr]:
    """Half of d' (d2H/dz2) d for an arbitrary logit change d, plus 1/2 sum_i (p_i + S_i) (d_i - p.d)^2."""
    a = SymbolicPolicy(size)
    change = sympy.symbols(f"d1:{size + 1}", real=True)
    along = sum(d * a.derivative(a.entropy, i) for i, d in enumerate(change))
    twice = sum(d * a.derivative(along, i) for i, d in enumerate(change))
    mean = sum(p * d for p, d in zip(a.p, change))
    spread = sum((p + s) * (d - mean) ** 2 for p, s, d in zip(a.p, a.s, change))
    return [twice / 2 + spread / 2]


def grpo_second_order(size: int) -> list[Expr]:
    """Half of d' (d2H/dz2) d along d = e_k - p, minus its form in four moments of the policy, for every token."""
    a = SymbolicPolicy(size)
    gradient = [a.derivative(a.entropy, i) for i in range(size)]
    curvature = [[a.derivative(g, j) for j in range(size)] for g in gradient]
    square, cube = (sum(p**n for p in a.p) for n in (2, 3))
    cube_log = sum(p**3 * log_p for p, log_p in zip(a.p, a.log_p))
    differences = []
    for k in range(size):
        d = [_is(i, k) - a.p[i] for i in range(size)]
        along = sum(d[i] * curvature[i][j] * d[j] for i in range(size) for j in range(size)) / 2
        p, s = a.p[k], a.s[k]
        weighted = (s + p) * (1 - 2 * p) + (1 + a.entropy) * cube + cube_log
        moments = (-weighted + 2 * (p - square) * (s - a.baseline) + (p - square) ** 2) / 2
        differences.append(along - moments)
    return differences


def exact_change(size: int) -> list[Expr]:
    """H(q) - H(p) + KL(q || p) + sum_i S_i q_i / p_i for an arbitrary other policy q of the same tokens."""
    a = SymbolicPolicy(size)
    growth = sympy.symbols(f"g1:{size + 1}", positive=True)
    total = sum(w * g for w, g in zip(a.w, growth))
    q = [w * g / total for w, g in zip(a.w, growth)]
    log_q = [sympy.log(w) + sympy.log(g) - sympy.log(total) for w, g in zip(a.w, growth)]
    change = -sum(x * log_x for x, log_x in zip(q, log_q)) - a.entropy
    kl = sum(x * (log_x - log_p) for x, log_x, log_p in zip(q, log_q, a.log_p))
    return [change + kl + sum(s * x / p for s, x, p in zip(a.s, q, a.p))]


def _covariance(p, x, y) -> Expr:
    mean_x = sum(a * b for a, b in zip(p, x))
    mean_y = sum(a * b for a, b in zip(p, y))
    return sum(a * (b - mean_x) * (c - mean_y) for a, b, c in zip(p, x, y))


def all_zero(differences: list[Expr]) -> bool:
    """Whether every expression simplifies to exactly zero; no expressions at all prove nothing (ValueError)."""
    if not differences:
        raise ValueError("there is nothing to prove: the list of differences is empty")
    return all(sympy.simplify(sympy.together(sympy.expand_log(d, force=True))) == 0 for d in differences)
