"""How well the lens and its rivals tell what rules do to entropy: tables, and the checks of notebook 07's claims.

All take the table of `tables.effects_table` or a part of it. A check returns whether its claim holds and the evidence
in one line. Intervals are 95 % t-intervals over seeds: their runs are independent, rules and batches of a run are not.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from companion.reports.evaluation import t_interval
from companion.reports.tables import best_factor, explained, lens_table

OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}
PREDICTORS = {
    "predicted": "the lens",
    "covariance": "covariance with log p",
    "uncentred": "S in place of D",
    "dropped": "share of tokens dropped",
    "smaller": "sum of |c| dropped",
}


def rank_table(effects: pd.DataFrame, measured: str) -> pd.DataFrame:
    """How each predictor ranks the rules by what was measured, a column of `effects`.

    Returns:
        One row a predictor: rank, Spearman's correlation of the rules' means over all trials; explained, the share of
        the squared means that it explains with one factor of its own, fitted here; seed, low, high, mean and interval
        of the same correlation within a seed; lead, lead_low, lead_high, those of the lens's minus this one's.
    """
    by_seed = effects.groupby(["seed", "method"])[[*PREDICTORS, measured]].mean()
    means = by_seed.groupby("method").mean()
    within = by_seed.groupby("seed").apply(_ranks, measured)
    rows = {}
    for name, rank in _ranks(means, measured).items():
        fitted = best_factor(means[name], means[measured]) * means[name]
        rows[name] = {"rank": rank, "explained": explained(fitted, means[measured])}
        rows[name] |= dict(zip(("seed", "low", "high"), t_interval(within[name])))
        rows[name] |= dict(zip(("lead", "lead_low", "lead_high"), t_interval(within["predicted"] - within[name])))
    return pd.DataFrame.from_dict(rows, orient="index")


def _ranks(means: pd.DataFrame, measured: str) -> pd.Series:
    return means[[*PREDICTORS]].corrwith(means[measured], method="spearman")


def sign_table(effects: pd.DataFrame, optimizer: str) -> pd.DataFrame:
    """Right signs in single trials: all in which a rule changed anything; where nothing is predicted, it is wrong.

    Returns:
        One row a stage (`at`), and "all": trials; always, the share in which entropy rose; the share of right signs of
        each predictor; lead, low, high, mean and interval of the lens's share minus `always` within a seed.
    """
    some = effects[effects[optimizer] != 0]
    right = {name: some[name] * some[optimizer] > 0 for name in PREDICTORS}
    right = some[["seed", "at"]].assign(always=some[optimizer] > 0, **right)
    rows = {}
    for stage, part in [*right.groupby("at"), ("all", right)]:
        by_seed = part.groupby("seed")[["always", "predicted"]].mean()
        rows[stage] = {"trials": len(part), **part[["always", *PREDICTORS]].mean()}
        rows[stage] |= dict(zip(("lead", "low", "high"), t_interval(by_seed["predicted"] - by_seed["always"])))
    return pd.DataFrame.from_dict(rows, orient="index")


def correlations(effects: pd.DataFrame) -> pd.DataFrame:
    """Of the effects of each two rules across trials, the lower of those with SGD and with Adam.

    Rules without any effect are left out.
    """
    trials = ["seed", "at", "batch"]
    tables = [effects.pivot(index=trials, columns="method", values=name) for name in OPTIMIZERS]
    active = [method for method in dict.fromkeys(effects["method"]) if all((t[method] != 0).any() for t in tables)]
    return pd.DataFrame(np.minimum(*(table[active].corr() for table in tables)))


def alike(correlated: pd.DataFrame, *, least: float = 0.9) -> list[list[str]]:
    """Rules in groups in which any two correlate by `least` or more, in order of appearance."""
    distance = squareform(1 - correlated.to_numpy(), checks=False)
    number = fcluster(linkage(distance, "complete"), 1 - least, "distance")
    return [correlated.index[number == i].tolist() for i in dict.fromkeys(number)]


def one_a_group(effects: pd.DataFrame, groups: list[list[str]]) -> pd.DataFrame:
    """The mean effects and predictions of each group in each trial, under the name of its first rule."""
    names = {rule: group[0] for group in groups for rule in group}
    some = effects.assign(method=effects["method"].map(names)).dropna(subset="method")
    return some.groupby(["seed", "at", "batch", "update", "method"], as_index=False, sort=False).mean()


def clear_signs(effects: pd.DataFrame, optimizer: str) -> pd.DataFrame:
    """Right signs of the rules' mean effects, where their intervals are clear of zero.

    Returns:
        One row a stage (`at`): clear, how many are; lens and always, how many of these the lens, and who says that
        entropy always rises, has right; falls and wrong, the rules whose entropy falls, and of which the lens errs.
    """
    rows = {}
    for stage, part in effects.groupby("at"):
        table = lens_table(part).set_index("method")
        agrees = table[f"{optimizer}_agrees"].dropna().astype(bool)
        falls = table.index[(table[optimizer] < 0) & table.index.isin(agrees.index)].tolist()
        rows[stage] = {"clear": len(agrees), "lens": agrees.sum(), "always": len(agrees) - len(falls)}
        rows[stage] |= {"falls": falls, "wrong": agrees.index[~agrees].tolist()}
    return pd.DataFrame.from_dict(rows, orient="index")


def ranks_the_rules(effects: pd.DataFrame, optimizer: str, *, above: float = 0.0) -> tuple[bool, str]:
    """The lens's ranks correlate with the measured ones: by over 0.8 over means, and clear of `above` within a seed."""
    lens = rank_table(effects, optimizer).loc["predicted"]
    line = (
        f"{OPTIMIZERS[optimizer]}: rank correlation of {effects['method'].nunique()} rules {lens['rank']:.2f}; within "
        f"a seed {lens['seed']:.2f} ({lens['low']:.2f} to {lens['high']:.2f})"
    )
    return bool(lens["rank"] > 0.8 and lens["low"] > above), line


def is_ahead(effects: pd.DataFrame, rivals: Sequence[str], optimizers: Sequence[str]) -> tuple[bool, str]:
    """With each optimizer the lens's rank correlation within a seed is above each rival's, clear of zero."""
    rows = _leads(effects, rivals, optimizers)
    return all(row["lead_low"] > 0 for row in rows.values()), _words(rows)


def is_near(effects: pd.DataFrame, rival: str, *, margin: float = 0.1) -> tuple[bool, str]:
    """With both optimizers a rival's rank correlation within a seed is less than `margin` below the lens's."""
    rows = _leads(effects, [rival], [*OPTIMIZERS])
    return all(row["lead_high"] < margin for row in rows.values()), _words(rows)


def _leads(effects: pd.DataFrame, rivals: Sequence[str], optimizers: Sequence[str]) -> dict[tuple[str, str], pd.Series]:
    tables = {optimizer: rank_table(effects, optimizer) for optimizer in optimizers}
    return {(rival, optimizer): table.loc[rival] for rival in rivals for optimizer, table in tables.items()}


def _words(leads: Mapping[tuple[str, str], pd.Series]) -> str:
    return "rank correlation within a seed, the lens minus " + ", ".join(
        f"{PREDICTORS[rival]} with {OPTIMIZERS[optimizer]} {row['lead']:+.3f} ({row['lead_low']:+.3f} to "
        f"{row['lead_high']:+.3f})"
        for (rival, optimizer), row in leads.items()
    )


def no_clear_sign_is_wrong(effects: pd.DataFrame, *, least: int = 20) -> tuple[bool, str]:
    """With each optimizer `least` effects or more are clear of zero, none with the other sign, nine in ten rises."""
    holds, parts = True, []
    for optimizer, name in OPTIMIZERS.items():
        table = clear_signs(effects, optimizer)
        clear, lens, always = (int(table[column].sum()) for column in ("clear", "lens", "always"))
        holds &= lens == clear >= least and always >= 0.9 * clear
        parts.append(f"{name}: lens {lens} of {clear}, always '+' {always}")
    return holds, "right sign of the effects clear of zero, early and late: " + "; ".join(parts)


def with_final_entropy(effects: pd.DataFrame, evaluations: pd.DataFrame) -> pd.DataFrame:
    """The effects of the rules and seeds that have a full run, and `final`: its last entropy minus GRPO's, in nats.

    Args:
        evaluations: arm, seed, entropy; one row a full run.
    """
    entropy = evaluations.pivot(index="seed", columns="arm", values="entropy")
    final = entropy.sub(entropy["GRPO"], axis=0).rename_axis(columns="method").stack().rename("final")
    return effects.merge(final.reset_index(), on=["seed", "method"])


def ranks_full_runs(effects: pd.DataFrame, *, margin: float = 0.01) -> tuple[bool, str]:
    """The lens's ranks correlate by over 0.5 with final entropies within a seed; predicted falls are no falls there.

    The rules that are predicted to lower entropy must not end lower, in their mean, by `margin` nats or more.

    Args:
        effects: as from `with_final_entropy`.
    """
    lens = rank_table(effects, "final").loc["predicted"]
    predicted = effects.groupby("method")["predicted"].mean()
    falling = effects[effects["method"].isin(predicted.index[predicted < 0])]
    mean, low, high = t_interval(falling.groupby("seed")["final"].mean())
    line = (
        f"rank correlation with the final entropy {lens['rank']:.2f}, within a seed {lens['seed']:.2f} "
        f"({lens['low']:.2f} to {lens['high']:.2f}); the {falling['method'].nunique()} rules predicted to lower "
        f"entropy end {mean:+.3f} nats from GRPO ({low:+.3f} to {high:+.3f})"
    )
    return bool(lens["low"] > 0.5 and low > -margin), line
