"""All records of training as two tables that a line of pandas reads: one row an evaluation, one row a step."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from companion.laboratory.experiment import Experiment
from companion.record import Record
from companion.reports.tables import evaluation_table, series_table
from companion.runs import comparisons
from companion.runs.store import Store, StoreError


def released_experiments(store: Store) -> dict[str, tuple[Experiment, Record]]:
    """Every released training run of the small policy by name.

    Raises:
        StoreError: one is missing.
    """
    found = {}
    for name, run in comparisons.named_by_name().items():
        if isinstance(run.config, Experiment):
            if (record := store.get(name, run.config)) is None:
                raise StoreError(f"{name} has no record for its config; run make retrain")
            found[name] = (run.config, record)
    return found


def evaluations(runs: Mapping[str, tuple[Experiment, Record]]) -> pd.DataFrame:
    """One row an evaluation: whose it is, the config columns that a reader needs, and `tables.evaluation_table`."""
    table = evaluation_table({(name, config.seed): record for name, (config, record) in runs.items()})
    return pd.concat([_about(table, runs), table.drop(columns=["arm", "seed"])], axis=1)


def series(runs: Mapping[str, tuple[Experiment, Record]]) -> pd.DataFrame:
    """One row a step with every recorded quantity."""
    table = series_table({(name, config.seed): record for name, (config, record) in runs.items() if config.steps})
    where = _about(table, runs)[["comparison", "arm", "seed"]]
    return pd.concat([where, table.drop(columns=["arm", "seed"])], axis=1)


def _about(table: pd.DataFrame, runs: Mapping[str, tuple[Experiment, Record]]) -> pd.DataFrame:
    """For each row, whose arm is a record's name: comparison, arm, seed and config."""
    about = {
        name: {
            **dict(zip(("comparison", "arm"), name.split("/"))),
            "seed": config.seed,
            "rule": config.step.rule.name,
            "options": ", ".join(f"{key} {value}" for key, value in config.step.rule.options.items()),
            "updates": config.step.updates,
            "parts": config.step.parts,
            "learning_rate": config.learning_rate,
            "batches": config.steps,
            "prompts": config.prompts,
            "group_size": config.group_size,
            "problems": config.problems,
        }
        for name, (config, _) in runs.items()
    }
    return pd.DataFrame([about[name] for name in table.arm])


def write(store: Store, data: Path) -> None:
    """Write evaluations.csv and, since it is large, series.csv.gz to `data`: the same bytes for the same records."""
    runs = released_experiments(store)
    form = {"index": False, "float_format": "%.6g", "lineterminator": "\n"}
    evaluations(runs).to_csv(data / "evaluations.csv", **form)
    series(runs).to_csv(data / "series.csv.gz", compression={"method": "gzip", "mtime": 0}, **form)
