"""What lies behind Avg@K and Pass@K in the last evaluations of a run: Pass@K for every K, histograms of pass rates."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from companion.record import Record
from companion.reports.evaluation import avg_at_k, bootstrap_interval, pass_at_k, pass_rate_histogram
from companion.reports.tables import POLICY
from companion.runs.plan import plan

Records = Mapping[tuple[str, int], Record]


def evaluations(records: Records) -> Iterator[tuple[str, int, dict]]:
    """Arm, seed and evaluation of each run's policy at the plan's last steps; 'start' is GRPO's before training."""
    for (arm, seed), record in records.items():
        own = [e for e in record.document["evaluations"] if POLICY.items() <= (POLICY | e).items()]
        last = sorted({e["step"] for e in own})[-plan()["common"]["endpoints"] :]
        for found in own:
            if found["step"] in last:
                yield arm, seed, found
            elif found["step"] == 0 and arm == "GRPO":
                yield "start", seed, found


def pass_curves(records: Records) -> pd.DataFrame:
    """Pass@k for k = 1, 2, 4, ... up to the samples, mean over the evaluations: arm, seed, size, k, pass."""
    rows = []
    for arm, seed, found in evaluations(records):
        n, correct = found["samples"], np.array(found["correct"])
        place = {"arm": arm, "seed": seed, "size": found["size"]}
        rows += [place | {"k": 2**i, "pass": pass_at_k(n, correct, 2**i).mean()} for i in range(n.bit_length())]
    return pd.DataFrame(rows).groupby(["arm", "seed", "size", "k"], sort=False, as_index=False)["pass"].mean()


def pass_rate_table(records: Records, *, size: int, bins: int = 8) -> pd.DataFrame:
    """Share of the problems with no right response, with some (in `bins` equal bins), and with all right.

    Returns:
        arm, seed, bin ("none", the lower edge of the bin as a number in text, "all"), share, mean over the evaluations.
    """
    names, rows = ["none", *(f"{i / bins:.3g}" for i in range(bins)), "all"], []
    for arm, seed, found in evaluations(records):
        if found["size"] == size:
            n = found["samples"]
            none, *between, every = pass_rate_histogram(n, np.array(found["correct"]))
            shares = np.bincount(np.arange(1, n) * bins // n, weights=between, minlength=bins)
            rows += [
                {"arm": arm, "seed": seed, "bin": name, "share": share}
                for name, share in zip(names, (none, *shares, every))
            ]
    return pd.DataFrame(rows).groupby(["arm", "seed", "bin"], sort=False, as_index=False)["share"].mean()


def by_problem(records: Records, *, size: int) -> pd.DataFrame:
    """Avg@32 and Pass@32 of every problem, mean over the evaluations: arm, seed, problem, avg, pass."""
    rows = []
    for arm, seed, found in evaluations(records):
        if found["size"] == size:
            n, correct = found["samples"], np.array(found["correct"])
            scores = {"avg": avg_at_k(n, correct), "pass": pass_at_k(n, correct, min(32, n))}
            rows.append(pd.DataFrame(scores).rename_axis("problem").reset_index().assign(arm=arm, seed=seed))
    return pd.concat(rows).groupby(["arm", "seed", "problem"], sort=False, as_index=False)[["avg", "pass"]].mean()


def with_problems_drawn(records: Records, pairs: Sequence[tuple[str, str]], *, size: int) -> pd.DataFrame:
    """Differences of arms with the same seed when problems are drawn anew, too: see `evaluation.bootstrap_interval`.

    Returns:
        arm, reference, column (avg or pass), mean, low, high (95 %).
    """
    table, rows = by_problem(records, size=size), []
    for arm, reference in pairs:
        for column in ("avg", "pass"):
            wide = {
                name: table[table["arm"] == name].pivot(index="seed", columns="problem", values=column)
                for name in (arm, reference)
            }
            mean, low, high = bootstrap_interval((wide[arm] - wide[reference]).dropna().to_numpy())
            about = {"arm": arm, "reference": reference, "column": column}
            rows.append(about | {"mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows)
