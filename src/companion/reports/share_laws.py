"""The share of a state's change of entropy that is its own token's doing, as a law in the size of batch and network.

With the contributions h(s, t) of `companion.instruments.own_share` and the sums of them over the parts of a batch
(`anatomy_tables.PARTS`: own, response, group, others), the own share of state s is

- `net`: |own| over the sum of the absolute sums of the parts, as in `anatomy_tables.kernel_shares`;
- `absolute`: |own| / sum_t |h(s, t)|, in which nothing cancels;
- `squared`: own^2 / sum_t h(s, t)^2;
- `signed`, of many states together: sum_s own total / sum_s total^2 with the total change. The same of all parts add
  up to 1, and one of them may be below 0 or above 1.

The first three are averaged over states. If contributions had independent random signs, `signed` would be `squared`.

Laws for a batch of x problems. The own problem's contributions do not depend on x, and those of the x - 1 others are
alike. Their absolute values and squares add up, and so do their sums if they have one sign: 1 / (a + b (x - 1)). Sums
of independent signs grow with the root: 1 / (a + b sqrt(x - 1)).
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from companion.provenance import ROOT
from companion.record import Record
from companion.reports.anatomy_tables import PARTS
from companion.reports.evaluation import t_interval

SHARES = ("net", "absolute", "squared")
PREDICTIONS = ROOT / "data/network_predictions.toml"


def states_table(records: Mapping[tuple[str, int], Record]) -> pd.DataFrame:
    """One row a state and batch size: arm, seed, the columns of the record, and the state's `SHARES`."""
    tables = []
    for (arm, seed), record in records.items():
        states, batches = (pd.DataFrame(record.document[name]) for name in ("states", "batches"))
        tables.append(batches.merge(states, on="state").assign(arm=arm, seed=seed))
    table = pd.concat(tables, ignore_index=True)
    own = table.own.abs()
    return table.assign(
        net=own / table[list(PARTS)].abs().sum(axis=1),
        others_net=table.others.abs() / table[list(PARTS)].abs().sum(axis=1),
        right=table.theorem * table[list(PARTS)].sum(axis=1) > 0,
        absolute_share=own / table.absolute,
        squared=own**2 / table.squares,
        total=table[list(PARTS)].sum(axis=1),
    )


def shares_table(states: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, seed and batch size, means over states: problems, tokens, `SHARES`, others (net share of the
    other problems), right (share of states whose first-order change has the theorem's sign), and signed."""
    groups = states.groupby(["arm", "seed", "problems"], sort=False)
    means = groups[["tokens", "net", "absolute_share", "squared", "others_net", "right"]].mean()
    signed = groups[["own", "total"]].apply(lambda x: (x.own * x.total).sum() / (x.total**2).sum())
    return (
        means.rename(columns={"absolute_share": "absolute", "others_net": "others"}).assign(signed=signed).reset_index()
    )


def at_tokens(shares: pd.DataFrame, tokens: float) -> pd.DataFrame:
    """The `SHARES` of every arm and seed in batches of so many tokens, between neighbouring sizes on log axes.

    Raises:
        ValueError: an arm has no batch that small or no batch that large.
    """
    rows = []
    for (arm, seed), group in shares.sort_values("tokens").groupby(["arm", "seed"], sort=False):
        if not group.tokens.iloc[0] <= tokens <= group.tokens.iloc[-1]:
            raise ValueError(
                f"{arm}, seed {seed} has {group.tokens.iloc[0]:.0f} to {group.tokens.iloc[-1]:.0f} tokens, not {tokens}"
            )
        found = {name: np.exp(np.interp(np.log(tokens), np.log(group.tokens), np.log(group[name]))) for name in SHARES}
        rows.append({"arm": arm, "seed": seed, "tokens": tokens} | found)
    return pd.DataFrame(rows)


def policies_table(records: Mapping[tuple[str, int], Record]) -> pd.DataFrame:
    """By arm, means over seeds: parameters, reward and entropy (nats) of the batch."""
    rows = [
        {"arm": arm} | {name: values[0] for name, values in record.document["policy"].items()}
        for (arm, _), record in records.items()
    ]
    return pd.DataFrame(rows).groupby("arm", sort=False).mean()


def by_factor(shares: pd.DataFrame, equal: pd.DataFrame, base: tuple[int, int] = (3, 96)) -> dict[str, pd.DataFrame]:
    """The points (seed, size, `SHARES`) of each factor: batch, width, depth.

    Args:
        shares: as `shares_table`; an arm is "layers x width".
        equal: the rows in which width and depth are compared: `at_tokens`, or those of one batch size.
        base: layers and width of the policy whose batch is varied.
    """
    layers, width = (equal.arm.str.split(" x ").str[i].astype(int) for i in (0, 1))
    return {
        "batch": shares[shares.arm == f"{base[0]} x {base[1]}"].rename(columns={"problems": "size"}),
        "width": equal[layers == base[0]].assign(size=width),
        "depth": equal[width == base[1]].assign(size=layers),
    }


@dataclass(frozen=True)
class Law:
    """log share of log size x: one constant moves it up and down; a second one, if it is `free`, bends or tilts it."""

    log_share: Callable[..., np.ndarray]  # (log x, first constant, perhaps the second)
    free: bool = False


def _others(growth: float) -> Callable[..., np.ndarray]:
    """-log(a + b (x - 1)^growth), of log a and log b."""
    return lambda log_x, log_a, log_b: -np.logaddexp(log_a, log_b + growth * np.log(np.expm1(log_x)))


LAWS = {
    "power law": Law(lambda log_x, first, slope: first + slope * log_x, free=True),
    "others alike": Law(_others(1.0), free=True),
    "others at random": Law(_others(0.5), free=True),
    "dilution": Law(lambda log_x, first: first - log_x),
    "constant": Law(lambda log_x, first: first + 0 * log_x),
}


def fit(law: Law, sizes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The constants, (1,) or (2,), of least squares in log share."""
    log_x, log_y = np.log(sizes), np.log(shares)
    starts = [[s, t] for s in (0.0, 2.0, 4.0) for t in (-2.0, 0.0, 2.0)] if law.free else [[0.0]]
    fits = [least_squares(lambda c: law.log_share(log_x, *c) - log_y, start) for start in starts]
    return min(fits, key=lambda found: found.cost).x


def exponents(points: pd.DataFrame) -> pd.DataFrame:
    """Slopes of log share against log size, fitted within each seed: share, seeds, mean, low, high (95 % over seeds).

    Args:
        points: seed, size, and `SHARES`.
    """
    rows = []
    for name in SHARES:
        slopes = [fit(LAWS["power law"], run["size"], run[name])[1] for _, run in points.groupby("seed")]
        mean, low, high = t_interval(slopes)
        rows.append({"share": name, "seeds": len(slopes), "mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows)


def held_out(points: pd.DataFrame, laws: Sequence[str]) -> pd.DataFrame:
    """Each law fitted to all sizes but the largest, within each seed, and judged on the largest.

    Args:
        points: as for `exponents`.

    Returns:
        One row a share and law: error, the root mean square over seeds of log(predicted / measured); mean, low and high
        (95 % over seeds) of the same, above 0 where the law predicts too large a share.
    """
    rows = []
    for name in SHARES:
        for law in laws:
            misses = []
            for _, run in points.sort_values("size").groupby("seed"):
                sizes, shares = (run[x].to_numpy(dtype=float) for x in ("size", name))
                constants = fit(LAWS[law], sizes[:-1], shares[:-1])
                misses.append(LAWS[law].log_share(np.log(sizes[-1]), *constants) - np.log(shares[-1]))
            mean, low, high = t_interval(misses)
            error = float(np.sqrt(np.mean(np.square(misses))))
            rows.append({"share": name, "law": law, "error": error, "mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows)


def drawn(points: pd.DataFrame, laws: Mapping[str, str]) -> pd.DataFrame:
    """What a figure shows: share, size, mean, low, high (geometric mean over seeds, 95 %), law and curve.

    Args:
        points: as for `exponents`.
        laws: the law of each share; its curve is fitted to all sizes but the largest (geometric mean over seeds).
    """
    rows = []
    for name, law in laws.items():
        runs = [run for _, run in points.sort_values("size").groupby("seed")]
        logs = np.log([run[name].to_numpy() for run in runs])
        sizes = runs[0]["size"].to_numpy(dtype=float)
        constants = [fit(LAWS[law], sizes[:-1], run[name].to_numpy()[:-1]) for run in runs]
        curve = np.mean([LAWS[law].log_share(np.log(sizes), *c) for c in constants], axis=0)
        for size, column, value in zip(sizes, logs.T, curve):
            mean, low, high = np.exp(t_interval(column))
            row = {"share": name, "size": size, "mean": mean, "low": low, "high": high}
            rows.append(row | {"law": law, "curve": np.exp(value)})
    return pd.DataFrame(rows)


def local_exponents(points: pd.DataFrame) -> pd.DataFrame:
    """Slopes between neighbouring sizes: share, size (the larger one), mean, low, high (95 % over seeds)."""
    rows = []
    sizes = np.sort(points["size"].unique())
    for name in SHARES:
        grid = np.log(points.pivot(index="seed", columns="size", values=name)[sizes].to_numpy())
        for number, slopes in enumerate((np.diff(grid) / np.diff(np.log(sizes))).T):
            mean, low, high = t_interval(slopes)
            rows.append({"share": name, "size": sizes[number + 1], "mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows)


def random_kernel_share(features: float, tokens: float) -> float:
    """The expected squared share in a kernel of random features: d / (d + n - 1).

    For independent unit vectors f_t, uniform on the sphere in d dimensions, K(s, t) = f_s . f_t has K(s, s) = 1 and
    E K(s, t)^2 = 1/d. So own^2 = 1, and the squares of n tokens add up to 1 + (n - 1)/d on average.
    """
    return features / (features + tokens - 1)


def features_of(share: float, tokens: float) -> float:
    """How many features a random kernel has that shows this squared share among so many tokens."""
    return share * (tokens - 1) / (1 - share)


def against_predictions(found: Mapping[str, pd.DataFrame], path: Path = PREDICTIONS) -> pd.DataFrame:
    """The exponents of each factor beside the ranges that were predicted.

    Args:
        found: `exponents` by factor: batch, width, depth.

    Returns:
        factor, share, mean, low, high; expected_low and expected_high; verdict: "as expected" if the mean is in the
        range, "undecided" if the interval still meets the range, else "not as expected".
    """
    expected = tomllib.loads(path.read_text(encoding="utf-8"))
    rows = []
    for factor, table in found.items():
        for row in table.to_dict("records"):
            low, high = (expected[factor][row["share"]][end] for end in ("low", "high"))
            inside, meets = low <= row["mean"] <= high, row["low"] <= high and low <= row["high"]
            verdict = "as expected" if inside else "undecided" if meets else "not as expected"
            rows.append({"factor": factor, **row, "expected_low": low, "expected_high": high, "verdict": verdict})
    return pd.DataFrame(rows)


def falls_by_law(table: pd.DataFrame, errors: pd.DataFrame, laws: Mapping[str, str]) -> tuple[bool, str]:
    """Whether each share falls, slower than 1/size, and its law predicts the largest size better than the rivals do.

    Args:
        table: as `exponents`.
        errors: as `held_out`, with each share's law and the rivals: power law, dilution, constant.
        laws: by share.
    """
    slopes, error = table.set_index("share"), errors.pivot(index="share", columns="law", values="error")
    holds = all(
        -1 < slopes.low[share] <= slopes.high[share] < 0
        and error.loc[share, law] < error.loc[share, ["power law", "dilution", "constant"]].min()
        for share, law in laws.items()
    )
    line = "; ".join(
        f"{share}: exponent {interval(slopes.loc[share])}, largest size within a factor "
        f"{np.exp(error.loc[share, law]):.2f} ({law}), {np.exp(error.loc[share, 'power law']):.2f} (power law), "
        f"{np.exp(error.loc[share, 'dilution']):.2f} (dilution), "
        f"{np.exp(error.loc[share, 'constant']):.2f} (constant)"
        for share, law in laws.items()
    )
    return bool(holds), line


def steepens(local: pd.DataFrame, shares: Sequence[str]) -> tuple[bool, str]:
    """Whether the slope at the largest sizes is below that at the smallest, intervals apart: no pure power law.

    Args:
        local: as `local_exponents`.
    """
    ends = {share: local[local.share == share].sort_values("size").iloc[[0, -1]] for share in shares}
    holds = all(last.high < first.low for first, last in (map(end.iloc.__getitem__, (0, 1)) for end in ends.values()))
    line = "; ".join(
        f"{share}: slope {interval(end.iloc[0])} up to {end['size'].iloc[0]:g}, {interval(end.iloc[1])} up to "
        f"{end['size'].iloc[1]:g}"
        for share, end in ends.items()
    )
    return bool(holds), line


def weaker(
    found: Mapping[str, pd.DataFrame], than: str, shares: Sequence[str], undecided: Sequence[str] = ()
) -> tuple[bool, str]:
    """Whether the exponent of every other factor is nearer to 0 than that of `than`, by the ends of their intervals.

    Args:
        found: `exponents` by factor.
        shares: of which it is claimed; undecided: of which it must not hold.
    """
    tables = {factor: table.set_index("share") for factor, table in found.items()}
    strong = tables.pop(than)

    def apart(share: str) -> bool:
        low, high = strong.loc[share, ["low", "high"]]
        nearest = 0 if low <= 0 <= high else min(abs(low), abs(high))
        return all(table.loc[share, ["low", "high"]].abs().max() < nearest for table in tables.values())

    line = "; ".join(
        f"{share}: "
        + ", ".join(f"{factor} {interval(found.loc[share])}" for factor, found in tables.items())
        + f", {than} {interval(strong.loc[share])}"
        for share in (*shares, *undecided)
    )
    return all(map(apart, shares)) and not any(map(apart, undecided)), line


def as_expected_but(against: pd.DataFrame, outside: Sequence[tuple[str, str]]) -> tuple[bool, str]:
    """Whether all means lie in the ranges that were laid down but those of `outside`, pairs of factor and share.

    Args:
        against: as `against_predictions`.
    """
    wrong = against[against.verdict != "as expected"]
    parts = [
        f"{row['factor']}, {row['share']} {interval(row)}, expected {row.expected_low:g} to {row.expected_high:g}"
        for _, row in wrong.iterrows()
    ]
    line = f"{len(against) - len(wrong)} of {len(against)} means in the range laid down; outside: {'; '.join(parts)}"
    return set(zip(wrong.factor, wrong.share)) == set(outside), line


def interval(row: pd.Series) -> str:
    """Mean and ends, to two digits."""
    return f"{row['mean']:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
