"""Records of steps taken apart, and ledgers along runs, as tables: what notebook 04 prints, draws and asserts."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from companion.record import Record
from companion.reports.tables import best_factor, explained

KINDS = ("updated", "same responses", "unseen problems")
PARTS = ("own", "response", "group", "others")


def part_of_records(records: Mapping[int, Record], name: str) -> pd.DataFrame:
    """The table `name` ("batches", "states", "kernel" or "norms") of all records, with the column seed."""
    return pd.concat(
        [pd.DataFrame(record.document[name]).assign(seed=seed) for seed, record in records.items()], ignore_index=True
    )


def levels(table: pd.DataFrame) -> pd.DataFrame:
    """How well each level of theory predicts the measured changes; one row a level.

    Args:
        table: theorem, first, second, measured (nats), of states or of batches.

    Returns:
        explained, the share of squared changes; signs, the share with the right sign; slope, the factor of the
        prediction that fits best. The theorem is multiplied by it before it is judged; it is left out where it says
        nothing, since no token of these states was pushed. A constant, the mean of what was measured, is judged, too.
    """
    predictions = {
        "a constant": pd.Series(table.measured.mean(), table.index),
        "first order": table["first"],
        "first and second order": table["first"] + table.second,
    }
    if table.theorem.any():
        factor = best_factor(table.theorem, table.measured)
        predictions = {"Theorem 3.3, one factor": factor * table.theorem} | predictions
    rows = {
        name: {
            "explained": explained(predicted, table.measured),
            "signs": float((predicted * table.measured > 0).mean()),
            "slope": factor if name.startswith("Theorem") else best_factor(predicted, table.measured),
        }
        for name, predicted in predictions.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def levels_by(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """`levels` of every group of `table`: one row a group, columns (explained, signs or slope; level)."""
    groups = {key: levels(group) for key, group in table.groupby(list(by), sort=False)}
    return pd.concat(groups, names=list(by)).unstack(sort=False)


def effective_steps(states: pd.DataFrame) -> pd.DataFrame:
    """How far updated states were moved along e_k - p, beside how far the sign of -alpha D reaches; one row a trial.

    Args:
        states: trial, alpha, radius.

    Returns:
        step and step_90, the median and the 90th percentile of |alpha|; radius, the median trust radius; beyond, the
        share of states with |alpha| above their radius.
    """

    def of_trial(table: pd.DataFrame) -> pd.Series:
        size = table.alpha.abs()
        row = {"step": size.median(), "step_90": size.quantile(0.9), "radius": table.radius.median()}
        return pd.Series(row | {"beyond": (size > table.radius).mean()})

    return pd.DataFrame({trial: of_trial(table) for trial, table in states.groupby("trial", sort=False)}).T


def along_the_token(states: pd.DataFrame) -> pd.DataFrame:
    """How much of the steps of updated states lies along e_k - p, and what that part says of entropy; one row a trial.

    Args:
        states: trial, theorem, coefficient, alpha, alignment, radius, measured.

    Returns:
        cosine and below, the median and the 90th percentile of the absolute cosine between the change of the logits and
        e_k - p; signs, the share of states whose change has the sign of -alpha D with the measured alpha; inside, the
        same for those with |alpha| below the trust radius; own, the share with the sign of -c D, c the coefficient;
        explained, the share of squared changes that -alpha D explains.
    """

    def of_trial(table: pd.DataFrame) -> pd.Series:
        predicted = table.alpha * table.theorem / table.coefficient  # theorem is -c D
        right = predicted * table.measured > 0
        return pd.Series(
            {
                "cosine": table.alignment.abs().median(),
                "below": table.alignment.abs().quantile(0.9),
                "signs": right.mean(),
                "inside": right[table.alpha.abs() < table.radius].mean(),
                "own": (table.theorem * table.measured > 0).mean(),
                "explained": explained(predicted, table.measured),
            }
        )

    return pd.DataFrame({trial: of_trial(table) for trial, table in states.groupby("trial", sort=False)}).T


def against_the_batch(batches: pd.DataFrame) -> pd.DataFrame:
    """The `batches` of each kind with the theorem's sum over the updated states of the same step as prediction."""
    place = ["seed", "at", "trial"]
    updated = batches[batches.kind == "updated"].set_index(place).theorem
    return batches.drop(columns="theorem").join(updated, on=place)


def kernel_shares(kernel: pd.DataFrame) -> pd.Series:
    """By part, its share of the sum of the absolute first-order changes of single states, averaged over states."""
    size = kernel[list(PARTS)].abs()
    return size.div(size.sum(axis=1), axis=0).mean()


def cumulated(series: pd.DataFrame) -> pd.DataFrame:
    """The ledger of runs, summed up: arm, seed, step, measured, parameters and logits (see `ledger_table`), from 0.

    `logits` is Theorem 3.3's sum, multiplied by one factor for each arm.
    """
    tables = []
    for (arm, seed), run in series.dropna(subset=["ledger_measured"]).groupby(["arm", "seed"], sort=False):
        table = pd.DataFrame(
            {
                "step": run.step + 1,
                "measured": run.ledger_measured.cumsum(),
                "parameters": run.ledger_parameters.cumsum(),
                "logits": run.ledger_logits.cumsum(),
            }
        )
        tables.append(table.assign(arm=arm, seed=seed))
    table = pd.concat(tables, ignore_index=True)
    factors = table.groupby("arm").apply(lambda x: best_factor(x.logits, x.measured))
    return table.assign(logits=table.logits * table.arm.map(factors))


def steps_tracked(table: pd.DataFrame, *, within: float) -> pd.DataFrame:
    """How many steps the cumulated first order stays within `within` nats of what was measured.

    Returns:
        One row a run: arm, seed, steps until the gap is first larger (all of them, if it never is), of, and gap, the
        prediction minus the measurement at the end (nats).
    """
    rows = []
    for (arm, seed), run in table.groupby(["arm", "seed"], sort=False):
        gap = run.parameters - run.measured
        steps = int((gap.abs() <= within).cumprod().sum())
        rows.append({"arm": arm, "seed": seed, "steps": steps, "of": len(run), "gap": float(gap.iloc[-1])})
    return pd.DataFrame(rows)


def binned_radii(tokens: pd.DataFrame, *, p_edges: Sequence[float], h_edges: Sequence[float]) -> pd.DataFrame:
    """Median trust radius of tokens in cells of (p, H): p, entropy (middles of the cell), tokens, radius.

    Args:
        tokens: probability, entropy, radius.
    """
    cells = [
        pd.cut(tokens.probability, p_edges, include_lowest=True),
        pd.cut(tokens.entropy, h_edges, include_lowest=True),
    ]
    groups = tokens.groupby(cells, observed=True).radius.agg(["size", "median"]).reset_index()
    return pd.DataFrame(
        {
            "p": [float(np.sqrt(max(cell.left, p_edges[0]) * cell.right)) for cell in groups.probability],
            "entropy": [cell.mid for cell in groups.entropy],
            "tokens": groups["size"],
            "radius": groups["median"],
        }
    )
