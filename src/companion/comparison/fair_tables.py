"""The planned comparison as tables: endpoints of all arms and free rivals, and what holds the same entropy.

Records are those of `fair.finals`, `fair.stale` and `fair.equal_entropy`, by (arm, seed).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from companion.comparison.choosing import free_settings
from companion.comparison.endpoints import TRAINED, endpoints, of_variant
from companion.record import Record
from companion.reports.evaluation import t_interval
from companion.reports.tables import COLUMNS, points
from companion.runs import fair
from companion.runs.plan import Choices, plan

Records = Mapping[tuple[str, int], Record]


def free_name(kind: str, setting: float) -> str:
    """What a free rival at a setting is called; a lower learning rate is an arm of its own."""
    return f"GRPO {setting:g}" if kind == "lower rate" else f"{kind} {setting:g}"


def free_endpoints(records: Records, chosen: Choices) -> pd.DataFrame:
    """Endpoints of everything free at every setting: kind, setting, arm, seed, size and `COLUMNS`."""
    tables = []
    for kind, settings in free_settings(chosen.batches).items():
        for setting, of in settings.items():
            about = {"kind": kind, "setting": setting, "arm": free_name(kind, setting)}
            for (arm, seed), record in records.items():
                if arm == "GRPO":
                    tables.append(of(record).reset_index().assign(seed=seed, **about))
    for rate in fair.lower_rates(chosen):
        arm = free_name("lower rate", rate)
        some = {key: record for key, record in records.items() if key[0] == arm}
        tables.append(endpoints(some).assign(kind="lower rate", setting=rate))
    return pd.concat(tables, ignore_index=True)[["kind", "setting", "arm", "seed", "size", *COLUMNS]]


def final_endpoints(records: Records, chosen: Choices) -> pd.DataFrame:
    """Endpoints of the arms and of each free rival at its chosen setting: arm, seed, size and `COLUMNS`."""
    rates = [free_name("lower rate", rate) for rate in fair.lower_rates(chosen)]
    arms = endpoints({key: record for key, record in records.items() if key[0] not in rates})
    free = free_endpoints(records, chosen)
    best = pd.concat([free[(free["kind"] == kind) & (free["setting"] == x)] for kind, x in chosen.free.items()])
    return pd.concat([arms, best[arms.columns]], ignore_index=True)


def best_free_arm(chosen: Choices) -> str:
    """The best free rival as `final_endpoints` names it."""
    kind = fair.best_free(chosen)
    return free_name(kind, chosen.free[kind])


def main_table(table: pd.DataFrame) -> pd.DataFrame:
    """Endpoints as text: mean and half of the 95 % t-interval over seeds, one row an arm."""
    rows: dict[str, dict[str, str]] = {}
    for (arm, size), some in table.groupby(["arm", "size"], sort=False):
        row = rows.setdefault(arm, {"seeds": str(len(some))})
        for column, name in (("avg", "Avg@32"), ("pass", "Pass@32"), ("entropy", "entropy")):
            if column != "entropy" or size == TRAINED:
                mean, _, high = t_interval(some[column])
                row[f"{name}, {size} numbers"] = f"{mean:.3f} ± {high - mean:.3f}"
    return pd.DataFrame.from_dict(rows, orient="index")


def trajectories(records: Records, arms: Sequence[str]) -> pd.DataFrame:
    """Evaluations on the trained kind along the runs, mean over seeds with 95 % t-interval.

    Returns:
        quantity (entropy, avg, pass), arm, step, mean, low, high.
    """
    rows = []
    for arm in arms:
        own = pd.concat([of_variant(points(record)) for (name, _), record in records.items() if name == arm])
        own = own[own["size"] == TRAINED]
        for quantity in ("entropy", "avg", "pass"):
            for step, values in own.groupby("step")[quantity]:
                about = {"quantity": quantity, "arm": arm, "step": step}
                rows.append(about | dict(zip(("mean", "low", "high"), t_interval(values))))
    return pd.DataFrame(rows)


def training_means(records: Records) -> pd.DataFrame:
    """By arm, means over seeds of what training recorded, over the second half of the batches.

    reward, entropy (nats), masked (share of the penalised tokens), gradient_norm, and strength where it was moved.
    """
    names = {"reward": "reward", "entropy": "entropy", "masked_negative": "masked", "gradient_norm": "gradient_norm"}
    rows = []
    for (arm, seed), record in records.items():
        series = pd.DataFrame(record.document["series"], dtype=float)
        half = series.iloc[len(series) // 2 :].rename(columns=names)
        rows.append(half.reindex(columns=[*names.values(), "strength"]).mean().rename((arm, seed)))
    table = pd.DataFrame(rows)
    table.index = pd.MultiIndex.from_tuples(table.index, names=["arm", "seed"])
    return table.groupby("arm", sort=False).mean()


def held(records: Records) -> pd.DataFrame:
    """How every controlled run held its target, over the second half of its batches.

    Returns:
        name, target, seed; mean entropy of the batches minus the target, its deviation from batch to batch, the lowest
        entropy of the whole run minus the target (all nats), the mean strength, and `holds`, whether the mean is within
        the plan's band.
    """
    rows = []
    for (arm, seed), record in records.items():
        name, target = arm.split(" at ")
        series = pd.DataFrame(record.document["series"], dtype=float)
        entropy = series["entropy"] - float(target)
        half = entropy.iloc[len(entropy) // 2 :]
        rows.append(
            {
                "name": name,
                "target": float(target),
                "seed": seed,
                "off": half.mean(),
                "deviation": half.std(),
                "lowest": entropy.min(),
                "strength": series["strength"].iloc[len(series) // 2 :].mean(),
                "holds": abs(half.mean()) <= plan()["equal_entropy"]["band"],
            }
        )
    return pd.DataFrame(rows)


def controlled_series(records: Records) -> pd.DataFrame:
    """Entropy of the batches and strength over its largest along controlled runs, means over seeds.

    Returns:
        name, target, step, entropy (nats), strength (0 to 1).
    """
    tables = []
    for (arm, seed), record in records.items():
        name, target = arm.split(" at ")
        series = pd.DataFrame(record.document["series"], dtype=float)[["entropy", "strength"]].rename_axis("step")
        series["strength"] /= fair.actuator(name)[2]
        tables.append(series.reset_index().assign(name=name, target=float(target), seed=seed))
    found = pd.concat(tables, ignore_index=True)
    return found.groupby(["name", "target", "step"], sort=False, as_index=False)[["entropy", "strength"]].mean()


FIRST_PAIRS = (("D", "p"), ("D", "random"), ("p", "random"))  # of question 3, ten seeds
OTHER_PAIRS = tuple((name, "random") for name in ("S", "A D", "covariance"))  # five seeds


def holding_pairs(holding: pd.DataFrame, target: float, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the pairs of which both hold the target in the mean over seeds, as the arms are named."""
    off = holding[holding["target"] == target].groupby("name")["off"].mean()
    good = off.abs() <= plan()["equal_entropy"]["band"]
    return [(f"{a} at {target:g}", f"{b} at {target:g}") for a, b in pairs if good[a] and good[b]]


def free_at_entropy(free: pd.DataFrame, target: float) -> pd.DataFrame:
    """Free rivals at an entropy, by linear interpolation between their settings with the same seed.

    Args:
        free: `free_endpoints`, and plain GRPO as a setting of each kind.

    Returns:
        kind, seed, size, avg, pass, distinct; a seed whose settings do not enclose the target is left out.
    """
    rows = []
    for (kind, seed, size), some in free.groupby(["kind", "seed", "size"], sort=False):
        some = some.sort_values("entropy")
        if some["entropy"].iloc[0] <= target <= some["entropy"].iloc[-1]:
            values = {name: np.interp(target, some["entropy"], some[name]) for name in ("avg", "pass", "distinct")}
            rows.append({"kind": kind, "seed": seed, "size": size} | values)
    return pd.DataFrame(rows, columns=["kind", "seed", "size", "avg", "pass", "distinct"])


def free_at_targets(free: pd.DataFrame, finals: pd.DataFrame, targets: Sequence[float]) -> pd.DataFrame:
    """What is free at every target, GRPO's own end being a setting of each kind, means over the seeds inside.

    Returns:
        By target, kind and size: seeds, avg, pass, distinct.
    """
    own = finals[finals["arm"] == "GRPO"]
    lines = pd.concat([free, *(own.assign(kind=kind) for kind in free["kind"].unique())], ignore_index=True)
    found = pd.concat([free_at_entropy(lines, target).assign(target=target) for target in targets])
    groups = found.groupby(["target", "kind", "size"], sort=False)
    return groups.agg(seeds=("seed", "size"), **{name: (name, "mean") for name in ("avg", "pass", "distinct")})


def above_the_free_line(
    finals: pd.DataFrame, free: pd.DataFrame, arms: Sequence[str], *, size: int = TRAINED
) -> pd.DataFrame:
    """Pass@32 of arms, and what a free rival has at the same average with the same seed.

    Args:
        finals: endpoints of the arms and of GRPO; free: `free_endpoints`.

    Returns:
        arm, kind, seed, pass, free: free is interpolated linearly between the settings of a kind and GRPO's end; a seed
        whose average lies outside its line is left out.
    """
    rows, own = [], finals[finals["size"] == size].set_index(["arm", "seed"])
    for (kind, seed), some in free[free["size"] == size].groupby(["kind", "seed"], sort=False):
        line = pd.concat([some[["avg", "pass"]], own.loc[[("GRPO", seed)], ["avg", "pass"]]]).sort_values("avg")
        for arm in arms:
            if (arm, seed) in own.index:
                average, value = own.loc[(arm, seed), ["avg", "pass"]]
                if line["avg"].iloc[0] <= average <= line["avg"].iloc[-1]:
                    of_line = np.interp(average, line["avg"], line["pass"])
                    rows.append({"arm": arm, "kind": kind, "seed": seed, "pass": value, "free": of_line})
    return pd.DataFrame(rows, columns=["arm", "kind", "seed", "pass", "free"])


def _along(record: Record, size: int) -> pd.DataFrame:
    """avg and pass by step along a run, each the mean over the plan's number of evaluations up to there."""
    own = of_variant(points(record))
    own = own[own["size"] == size].set_index("step")[["avg", "pass"]]
    return own.rolling(plan()["common"]["endpoints"]).mean().dropna()


def highest_average(record: Record, *, size: int = TRAINED) -> float:
    """The highest Avg@32 of a run, mean over the plan's number of successive evaluations."""
    return float(_along(record, size)["avg"].max())


def at_equal_average(records: Records, average: float, *, size: int = TRAINED) -> pd.DataFrame:
    """Pass@32 of each run where its average, mean over the plan's last evaluations up to there, first reaches a value.

    Returns:
        arm, seed, step, pass; a run that never reaches it is left out.
    """
    rows = []
    for (arm, seed), record in records.items():
        along = _along(record, size)
        reached = along[along["avg"] >= average]
        if not reached.empty:
            rows.append({"arm": arm, "seed": seed, "step": reached.index[0], "pass": reached["pass"].iloc[0]})
    return pd.DataFrame(rows, columns=["arm", "seed", "step", "pass"])
