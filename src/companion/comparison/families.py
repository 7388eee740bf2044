"""Families of paired tests over seeds, as the plan lays them down: t-tests, Holm's correction, what "beats" is."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from companion.reports.evaluation import t_interval
from companion.runs.plan import plan

Pair = tuple[str, str]  # an arm and what it is compared with


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number by Holm's method: the k-th smallest of m times m - k + 1, never falling."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def family(
    table: pd.DataFrame,
    pairs: Sequence[Pair],
    *,
    sizes: Sequence[int],
    columns: Sequence[str] = ("avg", "pass"),
    left_out: int = 0,
) -> pd.DataFrame:
    """All differences of a family with the same seed.

    Args:
        table: endpoints, one row an (arm, seed, size); the seeds of a pair are those that both arms have.
        left_out: tests of the family that could not be made, which count with p = 1.

    Returns:
        arm, reference, size, column; seeds, mean, low, high (95 % t-interval), p (two-sided paired t-test), and holm, p
        corrected for the whole family.

    Raises:
        ValueError: two arms with fewer than two seeds in common.
    """
    rows = []
    for (arm, reference), size, column in ((pair, s, c) for pair in pairs for s in sizes for c in columns):
        values = table[table["size"] == size].pivot(index="seed", columns="arm", values=column)
        difference = (values[arm] - values[reference]).dropna()
        if len(difference) < 2:
            raise ValueError(f"{arm} and {reference} have {len(difference)} seeds in common, expected two or more")
        mean, low, high = t_interval(difference)
        p = stats.ttest_1samp(difference, 0).pvalue if difference.any() else 1.0
        place = {"arm": arm, "reference": reference, "size": size, "column": column}
        rows.append(place | {"seeds": len(difference), "mean": mean, "low": low, "high": high, "p": p})
    found = pd.DataFrame(rows)
    return found.assign(holm=holm([*found["p"], *[1.0] * left_out])[: len(found)])


def beats(tests: pd.DataFrame, arm: str, reference: str, size: int) -> bool:
    """The plan's rule: Pass@32 is higher after Holm, and Avg@32 is not lower by more than the margin."""
    of_pass, of_average = (_row(tests, arm, reference, size, column) for column in ("pass", "avg"))
    section = plan()["tests"]
    clear = of_pass["mean"] > 0 and of_pass["holm"] < section["level"]
    return bool(clear and of_average["low"] > -section["average_margin"])


def alike(tests: pd.DataFrame, arm: str, reference: str, size: int) -> bool:
    """Whether no difference that matters is left open: both intervals lie within the plan's margins."""
    margins = {"pass": plan()["tests"]["pass_margin"], "avg": plan()["tests"]["average_margin"]}
    rows = {column: _row(tests, arm, reference, size, column) for column in margins}
    return all(-margins[c] < row["low"] and row["high"] < margins[c] for c, row in rows.items())


def verdict(tests: pd.DataFrame, arm: str, reference: str, size: int) -> str:
    """One of the five answers that the plan knows to whether an arm beats another on a kind of problems.

    Returns:
        "beats"; "trades", a higher Pass@32 whose average may be lower by more than the margin; "loses", a lower
        Pass@32; "alike"; or "undecided".
    """
    row = _row(tests, arm, reference, size, "pass")
    if beats(tests, arm, reference, size):
        return "beats"
    if row["holm"] < plan()["tests"]["level"]:
        return "trades" if row["mean"] > 0 else "loses"
    return "alike" if alike(tests, arm, reference, size) else "undecided"


def sentence(tests: pd.DataFrame, arm: str, reference: str, size: int) -> str:
    """The verdict in words, with its numbers."""
    rows = {
        name: _row(tests, arm, reference, size, column) for name, column in (("Pass@32", "pass"), ("Avg@32", "avg"))
    }
    numbers = ", ".join(
        f"{name} {row['mean']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}; p {row['p']:.2g}, "
        f"after Holm {row['holm']:.2g})"
        for name, row in rows.items()
    )
    low, high, seeds = (rows["Pass@32"][name] for name in ("low", "high", "seeds"))
    words = {
        "beats": f"{arm} beats {reference}",
        "trades": f"{arm} has a higher Pass@32 than {reference}, but its average may be lower by more than the margin",
        "loses": f"{arm} has a lower Pass@32 than {reference}",
        "alike": f"{arm} and {reference} are alike within the margins",
        "undecided": f"undecided between {arm} and {reference}: a difference in Pass@32 below {low:+.3f} or above "
        f"{high:+.3f} is excluded",
    }
    return f"with {size} numbers ({seeds} seeds) {words[verdict(tests, arm, reference, size)]}: {numbers}"


def in_short(tests: pd.DataFrame, arm: str, reference: str, kinds: Mapping[int, str]) -> str:
    """The verdicts in a few words, each with the differences in Pass@32 and their 95 % intervals.

    Args:
        kinds: the sizes of problems, the words for each; the first has none.
    """
    words = {"beats": "beats", "trades": "trades Avg@32 for Pass@32 against", "loses": "loses to"}
    words |= {"alike": "is like", "undecided": "is undecided against"}
    target = arm.partition(" at ")[2]
    against = reference.removesuffix(f" at {target}")  # what both have in common is said once
    parts: dict[str, list[str]] = {}
    for size, kind in kinds.items():
        row = _row(tests, arm, reference, size, "pass")
        said = words[verdict(tests, arm, reference, size)]
        numbers = f"{row['mean']:+.3f}, {row['low']:+.3f} to {row['high']:+.3f}"
        if row["low"] * row["high"] > 0 and row["holm"] >= plan()["tests"]["level"]:
            numbers += f", p {row['holm']:.2g} after Holm"
        average = _row(tests, arm, reference, size, "avg")
        if average["mean"] < 0 and average["holm"] < plan()["tests"]["level"]:
            numbers += f"; Avg@32 {average['mean']:+.3f}"
        parts.setdefault(said, []).append(numbers if not kind else f"{kind} {numbers}")
    first, *others = (f"{said} {{}} ({'; '.join(numbers)})" for said, numbers in parts.items())
    return " and ".join([f"{arm} {first.format(against)}", *(other.format("it") for other in others)])


def _row(tests: pd.DataFrame, arm: str, reference: str, size: int, column: str) -> pd.Series:
    place = {"arm": arm, "reference": reference, "size": size, "column": column}
    (row,) = (row for _, row in tests.iterrows() if all(row[name] == value for name, value in place.items()))
    return row
