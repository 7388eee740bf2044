"""Records as tables: what the notebooks print, draw and assert."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from entropy_dynamics.evaluation import avg_at_k, pass_at_k, t_interval
from entropy_dynamics.store import Record


def series_table(records: Mapping[tuple[str, int], Record]) -> pd.DataFrame:
    """One row a (arm, seed, step) with every recorded quantity; NaN where the ledger was not kept."""
    tables = [
        pd.DataFrame(record.document["series"], dtype=float)
        .rename_axis("step")
        .reset_index()
        .assign(arm=arm, seed=seed)
        for (arm, seed), record in records.items()
    ]
    return pd.concat(tables, ignore_index=True)


def evaluation_table(records: Mapping[tuple[str, int], Record]) -> pd.DataFrame:
    """One row a (arm, seed): Avg@n, Pass@n and distinct right answers on the test problems, and entropy in nats."""
    rows = []
    for (arm, seed), record in records.items():
        evaluation = record.document["evaluations"][-1]
        n, correct = evaluation["samples"], np.array(evaluation["correct"])
        scores = {"avg": avg_at_k(n, correct).mean(), "pass": pass_at_k(n, correct, n).mean()}
        distinct = float(np.mean(evaluation["distinct"]))
        rows.append({"arm": arm, "seed": seed, **scores, "distinct": distinct, "entropy": evaluation["entropy"]})
    return pd.DataFrame(rows)


def entropy_changes(series: pd.DataFrame, *, last: int = 5) -> pd.DataFrame:
    """Mean entropy of the last `last` batches minus that of the first, in nats; one row an arm, one column a seed."""
    entropy = series.pivot(index=["arm", "seed"], columns="step", values="entropy")
    final = entropy.apply(lambda row: row.dropna().iloc[-last:].mean(), axis=1)
    change = (final - entropy[0]).unstack("seed")
    return change.loc[list(dict.fromkeys(series.arm))]


def ledger_table(series: pd.DataFrame) -> pd.DataFrame:
    """The steps with a ledger entry: arm, seed, step, entropy, measured, parameters and logits (nats), and factor.

    `logits` is Theorem 3.3's sum multiplied by one `factor` for the whole table, fitted by least squares to `measured`:
    the theorem moves logits by the learning rate itself, a network moves them by its kernel.
    """
    names = {"ledger_measured": "measured", "ledger_parameters": "parameters", "ledger_logits": "logits"}
    kept = series.dropna(subset=["ledger_measured"]).rename(columns=names)
    table = kept[["arm", "seed", "step", "entropy", *names.values()]].reset_index(drop=True)
    factor = best_factor(table.logits, table.measured)
    return table.assign(logits=factor * table.logits, factor=factor)


def best_factor(predictor: pd.Series, measured: pd.Series) -> float:
    """The factor of `predictor` that fits `measured` best by least squares, without an offset."""
    return float((predictor * measured).sum() / (predictor**2).sum())


def explained(predicted: pd.Series, measured: pd.Series) -> float:
    """1 - sum (measured - predicted)^2 / sum measured^2: the share of squared changes that a prediction explains."""
    return float(1 - ((measured - predicted) ** 2).sum() / (measured**2).sum())


def centred_table(series: pd.DataFrame) -> pd.DataFrame:
    """How small the mean of D is beside the mean of S, batch by batch along one run.

    Returns:
        step; deviations, mean D in its standard errors; ratio, |mean D| / mean S; expected, standard error / mean S;
        running, the ratio of the means over all tokens so far; running_deviations, that mean D in its standard errors.
    """
    n = series.tokens
    sums = pd.DataFrame({"d": n * series.mean_d, "s": n * series.mean_s, "v": (n * series.mean_d_standard_error) ** 2})
    total = sums.cumsum()
    return pd.DataFrame(
        {
            "step": series.step,
            "deviations": series.mean_d / series.mean_d_standard_error,
            "ratio": (series.mean_d / series.mean_s).abs(),
            "expected": series.mean_d_standard_error / series.mean_s,
            "running": (total.d / total.s).abs(),
            "running_deviations": total.d / np.sqrt(total.v),
        }
    )


def condition_bands(series: pd.DataFrame, titles: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """Mean entropy over seeds with its 95 % t-interval, by condition, family of arms and step; each has GRPO, too."""
    tables = []
    for (advantage, sign), title in titles.items():
        suffix = f", {advantage} {sign}"
        chosen = series[series.arm.str.endswith(suffix) | (series.arm == "GRPO")]
        family = chosen.arm.str.removesuffix(suffix)
        values = chosen.assign(family=family).groupby(["family", "step"], sort=False).entropy
        summary = values.apply(lambda x: pd.Series(t_interval(x), index=["mean", "low", "high"])).unstack()
        tables.append(summary.reset_index().assign(condition=title))
    return pd.concat(tables, ignore_index=True)
