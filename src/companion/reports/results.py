"""What the main comparison says: its claims as checks on a table of evaluations, and the table that the README shows.

Each check takes the table of `tables.evaluation_table` for the starts and the arms, all with the same seeds, and
returns whether the claim holds and the evidence in one line. Notebook 09 and CI's training from nothing use the same.
"""

from pathlib import Path

import pandas as pd

from companion.reports.evaluation import t_interval
from companion.reports.tables import evaluation_table, paired, summary
from companion.runs import comparisons
from companion.runs.store import Store, StoreError

TRAINED, HARDER = 3, 4  # numbers in a problem


def grpo_collapses(table: pd.DataFrame) -> tuple[bool, str]:
    """Plain GRPO learns and loses its entropy; without that nothing here could be compared."""
    start, trained = (_by_seed(table, arm, TRAINED) for arm in ("start", "GRPO"))
    gain, lost = trained.avg - start.avg, 1 - trained.entropy / start.entropy
    line = (
        f"GRPO gains {gain.mean():.3f} Avg@32 ({gain.min():.3f} or more by seed), loses {lost.mean():.0%} of its "
        f"entropy ({lost.min():.0%} or more), and Pass@32 falls from {start['pass'].mean():.3f} to "
        f"{trained['pass'].mean():.3f}"
    )
    return bool((gain >= 0.2).all() and (lost >= 0.6).all() and (trained["pass"] < start["pass"]).all()), line


def keeps_diversity(table: pd.DataFrame, arm: str) -> tuple[bool, str]:
    """An arm ends with more entropy and a higher Pass@32 than GRPO: every seed, and intervals above zero."""
    holds, parts = True, []
    for column, name in (("entropy", "entropy"), ("pass", "Pass@32")):
        for size in (TRAINED, HARDER):
            difference = _by_seed(table, arm, size)[column] - _by_seed(table, "GRPO", size)[column]
            mean, low, high = t_interval(difference)
            holds &= low > 0 and bool((difference > 0).all())
            parts.append(f"{name} {mean:+.3f} ({low:+.3f} to {high:+.3f}) with {size} numbers")
    return holds, f"{arm} minus GRPO: " + ", ".join(parts)


def beats_random_mask(table: pd.DataFrame, arm: str) -> tuple[bool, str]:
    """As many random penalised tokens do not do it: the arm's entropy and Pass@32 are higher with every seed."""
    parts, holds = [], True
    for column, name in (("entropy", "entropy"), ("pass", "Pass@32")):
        difference = _by_seed(table, arm, TRAINED)[column] - _by_seed(table, "random mask", TRAINED)[column]
        mean, low, high = t_interval(difference)
        holds &= low > 0 and bool((difference > 0).all())
        parts.append(f"{name} {mean:+.3f} ({low:+.3f} to {high:+.3f})")
    return holds, f"{arm} minus the random mask: " + ", ".join(parts)


def _by_seed(table: pd.DataFrame, arm: str, size: int) -> pd.DataFrame:
    return table[(table["arm"] == arm) & (table["size"] == size)].set_index("seed").sort_index()


def main_table(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and half of the 95 % t-interval over seeds of every arm, as text; one row an arm."""
    rows = {}
    for arm in dict.fromkeys(table["arm"]):
        row = {}
        for size in (TRAINED, HARDER):
            some = table[(table["arm"] == arm) & (table["size"] == size)]
            for column, name in (("avg", "Avg@32"), ("pass", "Pass@32")):
                mean, low, high = summary(some, "arm", column).loc[arm]
                row[f"{name}, {size} numbers"] = f"{mean:.3f} ± {(high - low) / 2:.3f}"
            if size == TRAINED:
                row["entropy, 3 numbers"] = f"{some['entropy'].mean():.3f}"
        rows[arm] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def improvements(table: pd.DataFrame, column: str, size: int) -> pd.DataFrame:
    """`tables.paired` of the arms against GRPO for one column and size."""
    return paired(table[(table["size"] == size) & (table["arm"] != "start")], column)


def compared(**which) -> comparisons.Runs:
    """The runs of `comparisons.results(**which)` and the policies they start from."""
    runs = comparisons.results(**which)
    plain = {key: run for key, run in runs.items() if key[0] == "GRPO"}
    return comparisons.Runs(runs.comparison, comparisons.before(comparisons.Runs(runs.comparison, plain)) | runs)


def markdown(records: Path) -> str:
    """The README's table of results, from committed records alone.

    Raises:
        StoreError: a record is missing; `make retrain` makes it.
    """
    store, found = Store("build/runs", records), {}
    for key, run in comparisons.named(compared()).items():
        found[key] = store.get(run.name, run.config)
        if found[key] is None:
            raise StoreError(f"{records} has no record {run.name} of its config; run make retrain")
    table = main_table(evaluation_table(found))
    lines = ["| arm | " + " | ".join(table.columns) + " |", "|---" * (len(table.columns) + 1) + "|"]
    return "\n".join(lines + [f"| {arm} | " + " | ".join(row) + " |" for arm, row in table.iterrows()])
