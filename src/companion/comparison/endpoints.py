"""Endpoints of the planned comparison: means over the last evaluations of a run, of its policy or a variant."""

from collections.abc import Mapping

import pandas as pd

from companion.record import Record
from companion.reports.tables import COLUMNS, POLICY, points
from companion.runs.plan import plan

TRAINED, HARDER = plan()["common"]["sizes"]  # kinds of problems


def of_variant(table: pd.DataFrame, **variant: float) -> pd.DataFrame:
    """The rows of `points` of one variant; without any, of the run's own policy."""
    for name, value in (POLICY | variant).items():
        table = table[table[name] == value]
    return table


def endpoint(record: Record, *, until: int | None = None, **variant: float) -> pd.DataFrame:
    """Means over the last evaluations up to step `until` (default: the end) of the policy or a variant; by size.

    Raises:
        ValueError: fewer evaluations than the plan's endpoint has.
    """
    table, count = of_variant(points(record), **variant), plan()["common"]["endpoints"]
    steps = sorted(step for step in table["step"].unique() if until is None or step <= until)
    if len(steps) < count:
        raise ValueError(
            f"{len(steps)} evaluations of {POLICY | variant} up to step {until}, expected at least {count}"
        )
    return table[table["step"].isin(steps[-count:])].groupby("size")[list(COLUMNS)].mean()


def endpoints(records: Mapping[tuple[str, int], Record], **which: float) -> pd.DataFrame:
    """The endpoints of many runs: arm, seed, size and `COLUMNS`."""
    tables = [
        endpoint(record, **which).reset_index().assign(arm=arm, seed=seed) for (arm, seed), record in records.items()
    ]
    return pd.concat(tables, ignore_index=True)[["arm", "seed", "size", *COLUMNS]]


def start_endpoints(records: Mapping[tuple[str, int], Record]) -> pd.DataFrame:
    """The policies that GRPO's runs start from, in the form of `endpoints`: the one evaluation before training."""
    tables = [
        points(record).query("step == 0").assign(arm="start", seed=seed)
        for (arm, seed), record in records.items()
        if arm == "GRPO"
    ]
    return pd.concat(tables, ignore_index=True)[["arm", "seed", "size", *COLUMNS]]
