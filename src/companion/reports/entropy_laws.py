"""Which law does a run's entropy follow? Shapes are fitted to its first batches and judged on those that follow.

The rule, laid down before it saw a run of the planned comparison: every law is fitted by least squares to the first
half of the batches of each run; its error is the root mean square over the other half. A law is out for an arm if some
other law errs less, by a paired t-interval over seeds that is corrected for the number of pairs. The others stand. The
law of the flow is decided for if it stands and none of its rivals does, the laws with at most as many constants.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from companion.reports.evaluation import t_interval


@dataclass(frozen=True)
class Law:
    """H after t batches, in nats, of a, log tau and perhaps a third constant; a is H(0), tau a number of batches."""

    formula: Callable[..., np.ndarray]  # (t, a, log_tau, *third)
    third: tuple[float, float, float] | None = None  # first guess, least and largest value of the third constant

    @property
    def constants(self) -> int:
        """How many are fitted."""
        return 2 if self.third is None else 3


def _decay(t: np.ndarray, a: float, log_tau: float, b: float) -> np.ndarray:
    """a (1 + b log u) / u^b with u = 1 + t / tau: the entropy of a mass that falls as u^{-b}."""
    u = 1 + t / np.exp(log_tau)
    return a * (1 + b * np.log(u)) * u**-b


def _linear_logits(t: np.ndarray, a: float, log_tau: float) -> np.ndarray:
    """a (1 + x) e^{-x} with x = t / tau: the entropy of a mass that falls as e^{-x}."""
    x = t / np.exp(log_tau)
    return a * (1 + x) * np.exp(-x)


LAWS = {
    "(log t) / t": Law(lambda t, a, log_tau: _decay(t, a, log_tau, 1.0)),
    "(log t) / √t": Law(lambda t, a, log_tau: _decay(t, a, log_tau, 0.5)),
    "t exp(-t)": Law(_linear_logits),
    "exponential to a floor": Law(
        lambda t, a, log_tau, floor: floor + (a - floor) * np.exp(-t / np.exp(log_tau)), (0.1, 0.0, 1.0)
    ),
    "exponential": Law(lambda t, a, log_tau: a * np.exp(-t / np.exp(log_tau))),
    "power law": Law(lambda t, a, log_tau, b: a * (1 + t / np.exp(log_tau)) ** -b, (1.0, 0.02, 20.0)),
}
STAYS = "stays"  # no law: the mean of the last of the fitted batches
LAST = 16
FLOOR = "exponential to a floor"
FREE = Law(_decay, (0.7, 0.02, 10.0))
LOG_TAU = (-2.0, 12.0)  # of all fits: from an eighth of a batch to more batches than any run has
# The law that the flow of one state gives the arms of the plan, by how their names begin; without Adam.
FLOWS = {
    "GRPO": "(log t) / t",
    "random mask": "(log t) / t",
    "rarest mask": "(log t) / √t",
    "Clip_B": "(log t) / √t",
    "Clip_V": "(log t) / √t",
    "entropy bonus": FLOOR,
    "KL to the start": FLOOR,
}


def of_flow(arm: str) -> str | None:
    """The law that the flow gives an arm; None where no flow is worked out."""
    return next((law for beginning, law in FLOWS.items() if arm.startswith(beginning)), None)


def rivals(law: str) -> set[str]:
    """The laws with at most as many constants, and `STAYS`, which is no rival of a floor but where it ends."""
    as_few = {name for name, other in LAWS.items() if other.constants <= LAWS[law].constants}
    return (as_few - {law}) | (set() if law == FLOOR else {STAYS})


def fit(law: Law, steps: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """The constants (2,) or (3,) of least squares, the best of four starts."""
    third = [] if law.third is None else [law.third]
    bounds = ([0.0, LOG_TAU[0], *(x[1] for x in third)], [5.0, LOG_TAU[1], *(x[2] for x in third)])
    fits = [
        least_squares(
            lambda x: law.formula(steps, *x) - entropy, [entropy[0], log_tau, *(x[0] for x in third)], bounds=bounds
        )
        for log_tau in (1.5, 3.0, 4.5, 6.0)
    ]
    return min(fits, key=lambda result: result.cost).x


def curves(series: pd.DataFrame, *, share: float = 0.5) -> pd.DataFrame:
    """What each law and `STAYS` say of all batches of each run when fitted to the first `share` of them.

    Args:
        series: arm, seed, step (0, 1, ...), entropy (nats), one row a batch.

    Returns:
        arm, seed, law, step, measured, entropy (the law's, nats), and held_out, whether the batch came after the fit.
    """
    parts = []
    for (arm, seed), run in series.groupby(["arm", "seed"], sort=False):
        steps, measured = (run.sort_values("step")[name].to_numpy(dtype=float) for name in ("step", "entropy"))
        first = round(share * len(steps))
        values = {STAYS: np.full(len(steps), measured[:first][-LAST:].mean())}
        for name, law in LAWS.items():
            values[name] = law.formula(steps, *fit(law, steps[:first], measured[:first]))
        about = {
            "arm": arm,
            "seed": seed,
            "step": steps,
            "measured": measured,
            "held_out": np.arange(len(steps)) >= first,
        }
        parts += [pd.DataFrame(about | {"law": name, "entropy": values[name]}) for name in (*LAWS, STAYS)]
    return pd.concat(parts, ignore_index=True)


def held_out(fitted: pd.DataFrame) -> pd.DataFrame:
    """How each law did on the batches that it was not fitted to: arm, seed, law, error (root mean square), bias; nats.

    Args:
        fitted: as `curves`; bias is the mean of law minus measured.
    """
    later = fitted[fitted["held_out"]]
    gap = (later["entropy"] - later["measured"]).rename("gap")
    groups = gap.groupby([later["arm"], later["seed"], later["law"]], sort=False)
    return groups.agg(error=lambda x: np.sqrt(np.mean(x**2)), bias="mean").reset_index()


def standing(errors: pd.DataFrame, *, level: float = 0.05) -> list[str]:
    """The laws of one arm that no other law beats, by the rule above, from the least error on.

    Args:
        errors: as `held_out`, of one arm; level: of all comparisons of two laws together (Bonferroni).
    """
    table = errors.pivot(index="seed", columns="law", values="error")
    pairs, out = list(combinations(table.columns, 2)), set()
    for one, other in pairs:
        _, low, high = t_interval(table[one] - table[other], 1 - level / len(pairs))
        out |= {one} if low > 0 else {other} if high < 0 else set()
    return [law for law in table.mean().sort_values().index if law not in out]


def verdict(law: str, stand: Sequence[str]) -> str:
    """ "against" a law that does not stand, "open" where a rival stands, too, else "for"."""
    return "against" if law not in stand else "open" if rivals(law) & set(stand) else "for"


def verdicts(errors: pd.DataFrame) -> pd.DataFrame:
    """What the rule decides of the flow's law, arm by arm.

    Returns:
        By arm: seeds; flow (its law); error and bias of that law, means over seeds (nats), with the bias's 95 % limits
        low and high; best (the law with the least error) and its error; standing (how many laws stand); verdict: "for",
        "open" where the law and a rival stand, or "against" where it is out.
    """
    rows = {}
    for arm, some in errors.groupby("arm", sort=False):
        means, left, law = some.groupby("law")["error"].mean(), standing(some), of_flow(arm)
        bias, low, high = t_interval(some[some["law"] == law]["bias"])
        rows[arm] = {
            "seeds": some["seed"].nunique(),
            "flow": law,
            "error": means[law],
            "bias": bias,
            "low": low,
            "high": high,
            "best": means.idxmin(),
            "least": means.min(),
            "standing": len(left),
            "verdict": verdict(law, left),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")


def sentence(arm: str, errors: pd.DataFrame) -> str:
    """What the rule decides of one arm, in words.

    Args:
        errors: as `held_out`, of any arms.
    """
    some = errors[errors["arm"] == arm]
    left, law, means = standing(some), of_flow(arm), some.groupby("law")["error"].mean()
    others = ", ".join(f"{name} ({means[name]:.3f})" for name in left if name != law) or "nothing"
    words = {
        "against": f"decided against {law}, held-out error {means[law]:.3f} nats; what stands is {others}",
        "open": f"open; {law} stands, held-out error {means[law]:.3f} nats, and so does {others}",
        "for": f"decided for {law}, held-out error {means[law]:.3f} nats; beside it stands {others}",
    }
    return f"{arm} ({some['seed'].nunique()} seeds): {words[verdict(law, left)]}"


def constants(series: pd.DataFrame) -> pd.DataFrame:
    """Two constants fitted to whole runs, means over seeds with 95 % t-intervals.

    Returns:
        arm, seeds; exponent, exponent_low, exponent_high: b of H = a (1 + b log u) / u^b, u = 1 + t / tau; floor,
        floor_low, floor_high: c of the exponential to a floor (nats).
    """
    rows = []
    for arm, runs in series.groupby("arm", sort=False):
        row = {"arm": arm, "seeds": runs["seed"].nunique()}
        for name, law in (("exponent", FREE), ("floor", LAWS["exponential to a floor"])):
            values = [
                fit(law, run["step"].to_numpy(dtype=float), run["entropy"].to_numpy(dtype=float))[2]
                for _, run in runs.groupby("seed")
            ]
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), t_interval(values)))
        rows.append(row)
    return pd.DataFrame(rows)


def ends_apart(table: pd.DataFrame, sweeps: Sequence[Sequence[str]]) -> tuple[bool, str]:
    """Whether in each sweep the exponents of the first and the last arm lie apart, and all the same way.

    Their intervals must not meet, and the means must go one way from arm to arm.

    Args:
        table: as `constants`; sweeps: arms in the order of their strengths.
    """
    rows, words, ways = table.set_index("arm"), [], set()
    for arms in sweeps:
        first, last = rows.loc[arms[0]], rows.loc[arms[-1]]
        between = rows.loc[arms, "exponent"]
        rises = first["exponent_high"] < last["exponent_low"] and between.is_monotonic_increasing
        falls = last["exponent_high"] < first["exponent_low"] and between.is_monotonic_decreasing
        ways.add("rises" if rises else "falls" if falls else "does not clearly change")
        words.append(f"{arms[0]} to {arms[-1]}: {', '.join(f'{x:.2f}' for x in between)}")
    way = " or ".join(sorted(ways))
    return len(ways) == 1 and way in ("rises", "falls"), f"the exponent {way} with the threshold, {'; '.join(words)}"


def made_up(law: str, constants: Sequence[float], *, seeds: int, batches: int, noise: float) -> pd.DataFrame:
    """Runs that follow a law, with noise: what the rule must find again. In the form of `series`, the arm is the law.

    The noise of a batch has the deviation `noise` (nats) and correlates by 1/2 with that of the batch before; a and tau
    differ between seeds by a deviation of 10 %.
    """
    parts, steps = [], np.arange(batches, dtype=float)
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        own = np.array(constants, dtype=float)
        own[:2] += own[0] * 0.1 * generator.standard_normal(), 0.1 * generator.standard_normal()
        wobble = generator.standard_normal(batches) * noise
        for i in range(1, batches):
            wobble[i] = 0.5 * wobble[i - 1] + np.sqrt(0.75) * wobble[i]
        values = LAWS[law].formula(steps, *own) + wobble
        parts.append(pd.DataFrame({"arm": law, "seed": seed, "step": steps, "entropy": values}))
    return pd.concat(parts, ignore_index=True)


def rule_finds(stand: Mapping[str, Sequence[str]]) -> tuple[bool, str]:
    """Whether the rule decides for the true law of made-up runs, whatever it is.

    Args:
        stand: by the law that was made up, the laws that stand.
    """
    found = {law: verdict(law, left) for law, left in stand.items()}
    others = "; ".join(
        f"beside {law} {' and '.join(x for x in left if x != law) or 'none'}" for law, left in stand.items()
    )
    right = sum(word == "for" for word in found.values())
    return right == len(found), f"decided for the true law in {right} of {len(found)} cases; what else stands: {others}"


def at_equal_time(series: pd.DataFrame, slow: str, fast: str, ratio: float) -> tuple[bool, str]:
    """Does a learning rate that is `ratio` times larger mostly move time on, as in a flow?

    Entropy of `slow` at batch n ratio minus that of `fast` at batch n, mean over the second half of the batches that
    both reach, must be less than a quarter of the same difference at the same batch, in the mean over seeds that both
    have, and its 95 % interval must not reach beyond half of it.
    """
    table = series.pivot(index="step", columns=["arm", "seed"], values="entropy")
    seeds = sorted(set(table[slow].columns) & set(table[fast].columns))
    reached = np.arange(int(len(table) / ratio))[int(len(table) / ratio) // 2 :]
    one = table[fast][seeds].loc[reached].mean()
    time = table[slow][seeds].loc[np.round(reached * ratio)].mean() - one
    batch = table[slow][seeds].loc[reached].mean() - one
    mean, low, high = t_interval(time)
    apart = abs(batch.mean())
    holds = abs(mean) < apart / 4 and max(abs(low), abs(high)) < apart / 2
    return bool(holds), (
        f"{slow} minus {fast} at {ratio:g} times as many batches {mean:+.3f} nats ({low:+.3f} to {high:+.3f}, "
        f"{len(seeds)} seeds), at as many {batch.mean():+.3f}"
    )
