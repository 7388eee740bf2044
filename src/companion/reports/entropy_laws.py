"""Which law does a run's entropy follow? Shapes are fitted to its first batches and judged on those that follow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from companion.reports.evaluation import t_interval


@dataclass(frozen=True)
class Law:
    """H after t batches, in nats, of a, log tau and perhaps a third constant; a is H(0), tau a number of batches."""

    formula: Callable[..., np.ndarray]  # (t, a, log_tau, *third)
    third: tuple[float, float, float] | None = None  # first guess, least and largest value of the third constant


def _decay(t: np.ndarray, a: float, log_tau: float, b: float) -> np.ndarray:
    """a (1 + b log u) / u^b with u = 1 + t / tau: the entropy of a mass that falls as u^{-b}."""
    u = 1 + t / np.exp(log_tau)
    return a * (1 + b * np.log(u)) * u**-b


LAWS = {
    "(log t) / t": Law(lambda t, a, log_tau: _decay(t, a, log_tau, 1.0)),
    "(log t) / √t": Law(lambda t, a, log_tau: _decay(t, a, log_tau, 0.5)),
    "exponential": Law(lambda t, a, log_tau: a * np.exp(-t / np.exp(log_tau))),
    "exponential to a floor": Law(
        lambda t, a, log_tau, floor: floor + (a - floor) * np.exp(-t / np.exp(log_tau)), (0.1, 0.0, 1.0)
    ),
    "power law": Law(lambda t, a, log_tau, b: a * (1 + t / np.exp(log_tau)) ** -b, (1.0, 0.02, 20.0)),
}
FREE = Law(_decay, (0.7, 0.02, 10.0))
LOG_TAU = (-2.0, 12.0)  # of all fits: from an eighth of a batch to more batches than any run has


def fit(law: Law, steps: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """The constants (2,) or (3,) of least squares, the best of three starts."""
    third = [] if law.third is None else [law.third]
    bounds = ([0.0, LOG_TAU[0], *(x[1] for x in third)], [5.0, LOG_TAU[1], *(x[2] for x in third)])
    fits = [
        least_squares(
            lambda x: law.formula(steps, *x) - entropy, [entropy[0], log_tau, *(x[0] for x in third)], bounds=bounds
        )
        for log_tau in (1.5, 3.0, 4.5)
    ]
    return min(fits, key=lambda result: result.cost).x


def held_out(series: pd.DataFrame, *, share: float = 0.5) -> pd.DataFrame:
    """Each law fitted to the first `share` of the batches of each run and judged on all later ones.

    Args:
        series: arm, seed, step (0, 1, ...), entropy (nats), one row a batch.

    Returns:
        arm, seed, law, constants (their number), first (the first batch held out), fitted and error (root mean squares
        on either part), bias (mean of law minus measured, held out), noise (the standard deviation of one batch, from
        the differences of neighbours): nats.
    """
    rows = []
    for (arm, seed), run in series.groupby(["arm", "seed"], sort=False):
        steps, entropy = (run.sort_values("step")[name].to_numpy(dtype=float) for name in ("step", "entropy"))
        first = round(share * len(steps))
        for name, law in LAWS.items():
            constants = fit(law, steps[:first], entropy[:first])
            gap = law.formula(steps, *constants) - entropy
            rows.append(
                {"arm": arm, "seed": seed, "law": name, "constants": len(constants), "first": first}
                | {"fitted": np.sqrt(np.mean(gap[:first] ** 2)), "error": np.sqrt(np.mean(gap[first:] ** 2))}
                | {"bias": gap[first:].mean(), "noise": np.diff(entropy).std() / np.sqrt(2)}
            )
    return pd.DataFrame(rows)


def curves(series: pd.DataFrame, laws: Sequence[str], *, share: float = 0.5) -> pd.DataFrame:
    """What the laws say of all batches of each run when fitted to the first `share`: arm, seed, step, law, entropy."""
    parts = []
    for (arm, seed), run in series.groupby(["arm", "seed"], sort=False):
        steps, entropy = (run.sort_values("step")[name].to_numpy(dtype=float) for name in ("step", "entropy"))
        first = round(share * len(steps))
        for name in laws:
            constants = fit(LAWS[name], steps[:first], entropy[:first])
            values = LAWS[name].formula(steps, *constants)
            parts.append(pd.DataFrame({"arm": arm, "seed": seed, "step": steps, "law": name, "entropy": values}))
    return pd.concat(parts, ignore_index=True)


def exponents(series: pd.DataFrame) -> pd.DataFrame:
    """b of H = a (1 + b log u) / u^b, u = 1 + t / tau, fitted to whole runs: arm, seeds, mean, low, high (95 %)."""
    rows = {}
    for arm, runs in series.groupby("arm", sort=False):
        values = [
            fit(FREE, run["step"].to_numpy(dtype=float), run["entropy"].to_numpy(dtype=float))[2]
            for _, run in runs.groupby("seed")
        ]
        mean, low, high = t_interval(values)
        rows[arm] = {"seeds": len(values), "mean": mean, "low": low, "high": high}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm").reset_index()


def between(errors: pd.DataFrame, above: str, below: str) -> tuple[bool, str]:
    """Whether law `above` errs high and `below` errs low on the held-out batches of every run: the shape lies between.

    Args:
        errors: as `held_out`, of runs of one method.
    """
    bias = errors.pivot(index=["arm", "seed"], columns="law", values="bias")
    high, low = bias[above], bias[below]
    line = (
        f"{above} errs by {high.min():+.3f} to {high.max():+.3f} nats on the later batches of {len(bias)} runs, "
        f"{below} by {low.min():+.3f} to {low.max():+.3f}"
    )
    return bool((high > 0).all() and (low < 0).all()), line


def predicts_best(errors: pd.DataFrame, law: str, rivals: Sequence[str]) -> tuple[bool, str]:
    """Whether `law` has a smaller held-out error than each rival in every run.

    Args:
        errors: as `held_out`.
    """
    error = errors.pivot(index=["arm", "seed"], columns="law", values="error")
    holds = error[rivals].gt(error[law], axis=0).all(axis=None)
    means = error.mean()
    line = f"held-out error of {law} {means[law]:.3f} nats on average of {len(error)} runs, " + ", ".join(
        f"{rival} {means[rival]:.3f}" for rival in rivals
    )
    return bool(holds), line


def ascending(table: pd.DataFrame, orders: Sequence[Sequence[str]]) -> tuple[bool, str]:
    """Whether the arms' mean exponents rise in each order given, with the last one's interval above the first's.

    Args:
        table: as `exponents`.
    """
    rows = table.set_index("arm")
    holds = all(
        rows.loc[arms, "mean"].is_monotonic_increasing and rows.high[arms[0]] < rows.low[arms[-1]] for arms in orders
    )
    line = "; ".join(
        f"{arms[0]} to {arms[-1]}: " + ", ".join(f"{x:.2f}" for x in rows.loc[arms, "mean"]) for arms in orders
    )
    return bool(holds), f"exponents from {line}"
