"""The families of tests of the planned comparison, and its checks; what each asks stands in data/plan.toml.

Tables of endpoints are those of `fair_tables`; a family is a table of `families.family`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from companion.comparison.choosing import free_settings
from companion.comparison.endpoints import HARDER, TRAINED, endpoints
from companion.comparison.fair_tables import (
    FIRST_PAIRS,
    Records,
    above_the_free_line,
    at_equal_average,
    best_free_arm,
    highest_average,
    holding_pairs,
)
from companion.comparison.families import Pair, family, holm
from companion.reports.evaluation import t_interval
from companion.runs import fair
from companion.runs.plan import Choices, plan

METHODS = ("Clip_B", "Clip_V")
LINES = ("average with the start", "earlier checkpoint", "lower rate")  # what is free, as lines over its strength
MASKS = tuple((arm, f"{choice} mask like {arm}") for arm in METHODS for choice in ("random", "rarest"))
OTHERS = tuple((arm, "GRPO") for arm in ("entropy bonus", "Clip-Cov", "KL to the start", "EntroPIC"))
STALE = tuple((arm, "GRPO") for arm in (*METHODS, "entropy bonus", *(f"{arm}, once a batch" for arm in METHODS)))


def in_the_papers_regime(table: pd.DataFrame) -> pd.DataFrame:
    """Question 1: Clip_B and Clip_V minus GRPO on both kinds of problems."""
    return family(table, [(arm, "GRPO") for arm in METHODS], sizes=(TRAINED, HARDER))


def against_what_is_free(table: pd.DataFrame, chosen: Choices) -> pd.DataFrame:
    """Question 2: Clip_B and Clip_V minus the best free rival on both kinds of problems."""
    return family(table, [(arm, best_free_arm(chosen)) for arm in METHODS], sizes=(TRAINED, HARDER))


def against_masks(table: pd.DataFrame) -> pd.DataFrame:
    """Clip_B and Clip_V minus the masks matched to them, trained kind."""
    return family(table, MASKS, sizes=[TRAINED])


def others_against_grpo(table: pd.DataFrame) -> pd.DataFrame:
    """What else keeps entropy minus GRPO, trained kind."""
    return family(table, OTHERS, sizes=[TRAINED])


def in_the_stale_regime(table: pd.DataFrame) -> pd.DataFrame:
    """Arms of the stale regime minus its GRPO, trained kind."""
    return family(table, STALE, sizes=[TRAINED])


def compared_with_grpo(
    table: pd.DataFrame, arms: Sequence[str], *, sizes: Sequence[int] = (TRAINED, HARDER)
) -> pd.DataFrame:
    """Arms minus GRPO with the same seed, to be looked at: quantity, arm, mean, low, high (95 % t-interval)."""
    pairs = [(arm, "GRPO") for arm in arms if arm != "GRPO"]
    found = family(table, pairs, sizes=sizes)
    names = {"avg": "Avg@32", "pass": "Pass@32"}
    quantity = [f"{names[column]},\n{size} numbers" for column, size in zip(found["column"], found["size"])]
    found = found.assign(quantity=quantity).sort_values(["size", "column"], kind="stable")
    return found[["quantity", "arm", "seeds", "mean", "low", "high"]]


def at_the_same_average(table: pd.DataFrame, free: pd.DataFrame, chosen: Choices, *, size: int) -> pd.DataFrame:
    """Question 2 at equal average: every strength of Clip_B and Clip_V minus each free line, Pass@32.

    Args:
        table: endpoints of the arms; free: of everything free at every setting.

    Returns:
        method, strength, kind; seeds inside the line, mean, low, high (95 % t-interval), p and holm. With fewer than
        three seeds inside there is no interval, and the test counts with p = 1.
    """
    own = {(arm, chosen.strengths[arm]): arm for arm in METHODS}
    arms = {own.get(key := (arm, x), f"{arm} {x:g}"): key for arm in METHODS for x in plan()["strengths"][arm]}
    seeds = plan()["common"]["final_seeds"]
    inside = above_the_free_line(
        table[table["seed"].isin(seeds)], free[free["seed"].isin(seeds)], list(arms), size=size
    )
    rows = []
    for arm, (method, strength) in arms.items():
        for kind in LINES:
            some = inside[(inside["arm"] == arm) & (inside["kind"] == kind)]
            difference = some["pass"] - some["free"]
            place = {"method": method, "strength": strength, "kind": kind, "seeds": len(some)}
            mean, low, high, p = np.nan, np.nan, np.nan, 1.0
            if len(some) >= 3:
                mean, low, high = t_interval(difference)
                p = stats.ttest_1samp(difference, 0).pvalue
            rows.append(place | {"mean": mean, "low": low, "high": high, "p": p})
    found = pd.DataFrame(rows)
    return found.assign(holm=holm(found["p"]))


def which_tokens(table: pd.DataFrame, holding: pd.DataFrame, chosen: Choices, pairs: Sequence[Pair]) -> pd.DataFrame:
    """Question 3 on the trained kind: pairs at both targets of which both arms hold the target.

    Args:
        table: endpoints of the controlled runs; holding: of `fair_tables.held`.
    """
    good = [pair for target in chosen.targets for pair in holding_pairs(holding, target, pairs)]
    left_out = 2 * (len(pairs) * len(chosen.targets) - len(good))
    return family(table, good, sizes=[TRAINED], left_out=left_out)


def minus_grpo(table: pd.DataFrame, families: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Where arms lie beside GRPO with the same seed: what `fair_figures.frontier` draws.

    Args:
        table: endpoints; families: arms in the order of their strength by family.

    Returns:
        size, family, arm, and for avg and pass: NAME, NAME_low, NAME_high (95 % t-interval).
    """
    rows = []
    for size, some in table.groupby("size"):
        values = {name: some.pivot(index="seed", columns="arm", values=name) for name in ("avg", "pass")}
        for name, arms in families.items():
            for arm in arms:
                row = {"size": size, "family": name, "arm": arm}
                for column, wide in values.items():
                    mean, low, high = t_interval((wide[arm] - wide["GRPO"]).dropna())
                    row |= {column: mean, f"{column}_low": low, f"{column}_high": high}
                rows.append(row)
    return pd.DataFrame(rows)


def against_random(table: pd.DataFrame, chosen: Choices) -> pd.DataFrame:
    """Every actuator minus the random mask with bonus at the same target, to be looked at, trained kind.

    Returns:
        quantity, arm (the actuator's name), seeds, mean, low, high (95 % t-interval).
    """
    names = [*plan()["equal_entropy"]["statistics"], fair.BONUS]
    tables = []
    for target in chosen.targets:
        pairs = [(f"{name} at {target:g}", f"random at {target:g}") for name in names if name != "random"]
        found = family(table, pairs, sizes=[TRAINED])
        columns = {"avg": "Avg@32", "pass": "Pass@32"}
        quantity = [f"{columns[column]},\nH held at {target:g}" for column in found["column"]]
        tables.append(found.assign(quantity=quantity, arm=found["arm"].str.partition(" at ")[0]))
    found = pd.concat(tables, ignore_index=True).sort_values("column", kind="stable")
    return found[["quantity", "arm", "seeds", "mean", "low", "high"]]


def at_equal_reward(records: Records, chosen: Choices) -> pd.DataFrame:
    """Pass@32 of each actuator where its Avg@32 first reaches the most that all runs at its target reach.

    Returns:
        By target and name: average, the value reached; step and pass, means over seeds; and more, low, high: pass minus
        that of the random mask with bonus, mean over the common seeds and 95 % t-interval.
    """
    rows = {}
    for target in chosen.targets:
        some = {key: record for key, record in records.items() if key[0].endswith(f" at {target:g}")}
        average = min(highest_average(record) for record in some.values())
        found = at_equal_average(some, average).pivot(index="seed", columns="arm", values=["step", "pass"])
        for arm in found["pass"].columns:
            step, own = found["step"][arm].mean(), found["pass"][arm]
            row = {"average": average, "step": step, "pass": own.mean()}
            difference = (own - found["pass"][f"random at {target:g}"]).dropna()
            row |= dict(zip(("more", "low", "high"), t_interval(difference)))
            rows[target, arm.partition(" at ")[0]] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["target", "name"])


def elsewhere(records: Records, chosen: Choices) -> pd.DataFrame:
    """Endpoints of the arms that are run elsewhere, and of the best free rival there at its setting."""
    kind, arm = fair.best_free(chosen), best_free_arm(chosen)
    table = endpoints(records)
    if arm in set(table["arm"]):
        return table
    grpo = {key: record for key, record in records.items() if key[0] == "GRPO"}
    of = free_settings(chosen.batches)[kind][chosen.free[kind]]
    free = [of(record).reset_index().assign(arm=arm, seed=seed) for (_, seed), record in grpo.items()]
    return pd.concat([table, *free], ignore_index=True)[table.columns]


def free_leads(tests: pd.DataFrame) -> tuple[bool, str]:
    """Clip_B and Clip_V lose Pass@32 to the free rival on both kinds, and its average is not lower beyond the margin.

    Args:
        tests: of `against_what_is_free`.
    """
    of_pass, lost = tests[tests["column"] == "pass"], tests[tests["column"] == "avg"]["high"].max()
    line = (
        f"{tests['reference'].iloc[0]} against {' and '.join(METHODS)}, {tests['seeds'].min()} seeds, both kinds: "
        f"Pass@32 higher by {-of_pass['mean'].max():.3f} to {-of_pass['mean'].min():.3f}, largest p after Holm "
        f"{of_pass['holm'].max():.2g}; Avg@32 lower by at most {lost:.3f} (end of an interval)"
    )
    return bool(_is_lost(of_pass).all() and lost < plan()["tests"]["average_margin"]), line


def clear_without(table: pd.DataFrame, chosen: Choices) -> pd.Series:
    """In how many of the cases with one seed left out each loss of `against_what_is_free` is clear; by arm and size."""
    seeds = table.loc[table["arm"] == "GRPO", "seed"].unique()
    tests = pd.concat(against_what_is_free(table[table["seed"] != seed], chosen) for seed in seeds)
    of_pass = tests[tests["column"] == "pass"]
    return _is_lost(of_pass).groupby([of_pass["arm"], of_pass["size"]], sort=False).sum()


def _is_lost(of_pass: pd.DataFrame) -> pd.Series:
    return (of_pass["mean"] < 0) & (of_pass["holm"] < plan()["tests"]["level"])


def targets_are_held(holding: pd.DataFrame, runs: int) -> tuple[bool, str]:
    """Every one of so many controlled runs holds its target.

    Args:
        holding: of `fair_tables.held`.
    """
    line = (
        f"{len(holding)} runs: mean entropy over the second half at most {holding['off'].abs().max():.4f} nats off its "
        f"target; it never fell further than {-holding['lowest'].min():.3f} below"
    )
    return bool(holding["holds"].all() and len(holding) == runs), line


def tokens_matter(tests: pd.DataFrame) -> tuple[bool, str]:
    """D has a clearly higher Pass@32 than p and than random with bonus, and p than random, at both targets.

    Args:
        tests: of `which_tokens` with `FIRST_PAIRS`.
    """
    of_pass = tests[tests["column"] == "pass"]
    clear = (of_pass["mean"] > 0) & (of_pass["holm"] < plan()["tests"]["level"])
    line = (
        f"D over p, D over random + bonus and p over random + bonus at both targets, {of_pass['seeds'].min()} seeds: "
        f"Pass@32 higher by {of_pass['mean'].min():.3f} to {of_pass['mean'].max():.3f}, largest p after Holm "
        f"{of_pass['holm'].max():.2g}"
    )
    return bool(clear.all() and len(of_pass) == len(FIRST_PAIRS) * len(plan()["equal_entropy"]["targets"])), line


def free_leads_elsewhere(places: Mapping[str, pd.DataFrame], free: str) -> tuple[bool, str]:
    """A free rival has a higher Pass@32 than GRPO at every place, on both kinds, with every seed.

    Args:
        places: of `elsewhere`, by name.
    """
    wide = [table.pivot(index=["size", "seed"], columns="arm", values="pass") for table in places.values()]
    gains = pd.concat([table[free] - table["GRPO"] for table in wide])
    line = (
        f"{free} minus GRPO, {len(places)} places, two kinds of problems, {len(plan()['elsewhere']['seeds'])} seeds: "
        f"Pass@32 between {gains.min():+.3f} and {gains.max():+.3f}"
    )
    return bool((gains > 0).all() and len(gains) == 2 * len(places) * len(plan()["elsewhere"]["seeds"])), line


def grpo_collapses(table: pd.DataFrame) -> tuple[bool, str]:
    """Plain GRPO learns and loses its entropy and its Pass@32; without that there is nothing to compare.

    Args:
        table: endpoints of the start and GRPO on the trained kind.
    """
    start, trained = (_by_seed(table, arm) for arm in ("start", "GRPO"))
    gain, lost, fall = (
        trained["avg"] - start["avg"],
        1 - trained["entropy"] / start["entropy"],
        start["pass"] - trained["pass"],
    )
    line = (
        f"with {len(gain)} seeds GRPO gains {gain.mean():.3f} Avg@32 ({gain.min():.3f} or more by seed), loses "
        f"{lost.mean():.0%} of its entropy ({lost.min():.0%} or more), and Pass@32 falls by {fall.mean():.3f} "
        f"({fall.min():.3f} or more)"
    )
    return bool((gain >= 0.2).all() and (lost >= 0.6).all() and (fall > 0).all()), line


def _by_seed(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    return table[(table["arm"] == arm) & (table["size"] == TRAINED)].set_index("seed").sort_index()


def start_keeps_most(curves: pd.DataFrame) -> tuple[bool, str]:
    """With as many attempts as were drawn the start solves more problems than any trained policy: with every seed.

    Args:
        curves: of `pass_rates.pass_curves`.
    """
    most = curves["k"].max()
    last = curves[curves["k"] == most].pivot(index=["size", "seed"], columns="arm", values="pass")
    lead = last.rsub(last["start"], axis=0).drop(columns="start")
    holds, parts = bool((lead > 0).all(axis=None)), []
    for size, some in lead.groupby(level="size"):
        mean, low, high = t_interval(some.min(axis=1))
        parts.append(f"with {size} numbers {mean:+.3f} ({low:+.3f} to {high:+.3f})")
    return holds, f"Pass@{most} of the start minus that of the best of {', '.join(lead.columns)}: " + ", ".join(parts)


def polarizes_less(table: pd.DataFrame, *, margin: float = 0.02) -> tuple[bool, str]:
    """GRPO polarizes pass rates of the trained kind, Clip_B clearly less, and Clip_V as GRPO does, within `margin`."""
    values = table[table["size"] == TRAINED].pivot(index="seed", columns="arm", values="polarization")
    found = {arm: t_interval((values[arm] - values["GRPO"]).dropna()) for arm in ("start", "Clip_B", "Clip_V")}
    line = ", ".join(f"{arm} {mean:+.3f} ({low:+.3f} to {high:+.3f})" for arm, (mean, low, high) in found.items())
    less = all(found[arm][2] < 0 for arm in ("start", "Clip_B"))
    alike = -margin < found["Clip_V"][1] and found["Clip_V"][2] < margin
    return less and alike, f"polarization minus GRPO's {values['GRPO'].mean():.3f}: {line}"


def settings(chosen: Choices) -> pd.DataFrame:
    """What was chosen on validation problems and among which values, one row an arm or free rival."""
    strengths = plan()["strengths"]
    what = {"Clip_B": "mu", "Clip_V": "mu", "Clip-Cov": "fraction", "EntroPIC": "target (nats)"}
    rows = [
        {"arm": arm, "what": what.get(arm, "coefficient"), "chosen": x, "among": strengths[arm]}
        for arm, x in chosen.strengths.items()
    ]
    among = plan()["free"] | {"lower rate": fair.lower_rates(chosen)}
    rows += [{"arm": kind, "what": "free", "chosen": x, "among": among[kind]} for kind, x in chosen.free.items()]
    return pd.DataFrame(rows).set_index("arm")
