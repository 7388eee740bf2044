"""Records as tables: what the notebooks print, draw and assert."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from companion.puzzles.tasks import ALPHABET
from companion.record import Record
from companion.reports.evaluation import avg_at_k, pass_at_k, polarization, probability_of_improvement, t_interval
from entropy_dynamics import clipping
from entropy_dynamics.token_statistics import TokenStatistics

COLUMNS = ("avg", "pass", "distinct", "entropy", "kl", "polarization")  # of an evaluation
POLICY = {
    "temperature": 1.0,
    "start_share": 0.0,
    "averaged": 1,
}  # the run's own, as it was trained; others are variants


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


def points(record: Record) -> pd.DataFrame:
    """One row an evaluation: step, size, the variant (temperature, start_share, averaged), samples, and `COLUMNS`.

    `avg` is the mean reward, which Avg@K estimates for any K, `pass` Pass@32, or Pass@samples where there are fewer,
    `distinct` the number of different right answers, means over the problems; entropy and KL from the start in nats a
    token (NaN where it was not measured); `polarization` as in `evaluation`.
    """
    rows = []
    for found in record.document["evaluations"]:
        n, correct = found["samples"], np.array(found["correct"])
        rows.append(
            POLICY
            | {name: found[name] for name in ("step", "size", *POLICY, "samples", "entropy", "kl") if name in found}
            | {"avg": avg_at_k(n, correct).mean(), "pass": pass_at_k(n, correct, min(32, n)).mean()}
            | {"distinct": np.mean(found["distinct"]), "polarization": polarization(correct / n)}
        )
    return pd.DataFrame(rows).reindex(columns=["step", "size", *POLICY, "samples", *COLUMNS])


def evaluation_table(records: Mapping[tuple[str, int], Record]) -> pd.DataFrame:
    """One row an (arm, seed) and evaluation: arm, seed, and the columns of `points`."""
    tables = [points(record).assign(arm=arm, seed=seed) for (arm, seed), record in records.items()]
    return pd.concat(tables, ignore_index=True)


def summary(table: pd.DataFrame, by: str | list[str], column: str) -> pd.DataFrame:
    """Mean over seeds with its 95 % t-interval: mean, low, high; one row a group, in order of appearance."""
    groups = table.groupby(by, sort=False)[column]
    return groups.apply(lambda x: pd.Series(t_interval(x), index=["mean", "low", "high"])).unstack()


def run_bands(
    series: pd.DataFrame, columns: Sequence[str], *, by: Sequence[str] = ("arm",), smoothed: int = 5
) -> pd.DataFrame:
    """Running means along runs, averaged over seeds, with 95 % t-intervals where there are two or more.

    Args:
        series: the columns of `by`, seed, step in order, and `columns`; a run may lack values.
        smoothed: values of a run that are averaged, in the middle of which the mean stands.

    Returns:
        quantity (of `columns`), the columns of `by`, step, mean, low, high; the limits are NaN with one seed.
    """
    long = series.melt([*by, "seed", "step"], list(columns), "quantity").dropna()
    runs = long.groupby(["quantity", *by, "seed"], sort=False)["value"]
    long["value"] = runs.transform(lambda x: x.rolling(smoothed, center=True, min_periods=1).mean())
    groups = long.groupby(["quantity", *by, "step"], sort=False)["value"]

    def interval(x: pd.Series) -> pd.Series:
        values = t_interval(x) if len(x) > 1 else (x.iloc[0], np.nan, np.nan)
        return pd.Series(values, index=["mean", "low", "high"])

    return groups.apply(interval).unstack().reset_index()


def paired(table: pd.DataFrame, column: str, *, reference: str = "GRPO") -> pd.DataFrame:
    """Each arm minus the reference arm with the same seed.

    Returns:
        One row an arm: mean, low, high (95 % t-interval over seeds), better (share of the seeds with a positive
        difference), and improvement, the probability that a run of the arm beats a run of the reference, any seeds.
    """
    values = table.pivot(index="arm", columns="seed", values=column)
    if values.isna().any(axis=None):
        raise ValueError(f"{column}: not every arm has a value with every seed")
    rows = {}
    for arm in dict.fromkeys(table.arm):
        if arm != reference:
            difference = values.loc[arm] - values.loc[reference]
            mean, low, high = t_interval(difference)
            chance = probability_of_improvement(values.loc[arm], values.loc[reference])
            better = (difference > 0).mean()
            rows[arm] = {"mean": mean, "low": low, "high": high, "better": better, "improvement": chance}
    return pd.DataFrame.from_dict(rows, orient="index")


def effects_table(records: Mapping[int, Record], names: Sequence[str]) -> pd.DataFrame:
    """What each method changes relative to the first one on the same batch: one row a trial of another method.

    Args:
        records: of probes, by seed; names: of their rules, in order.

    Returns:
        seed, at, batch, update, method; differences in predicted (nats per unit of effective step), in what each rival
        predictor says, and in the measured adam and sgd (nats).
    """
    tables, keys = [], ["at", "batch", "update"]
    for seed, record in records.items():
        effects = pd.DataFrame(record.document["effects"])
        if effects["rule"].nunique() != len(names):
            raise ValueError(f"the probe has {effects['rule'].nunique()} rules, expected {len(names)} names")
        columns = [name for name in effects if name not in (*keys, "rule")]
        wide = effects.merge(effects[effects["rule"] == 0][keys + columns], on=keys, suffixes=("", "_reference"))
        for name in columns:
            wide[name] -= wide[f"{name}_reference"]
        wide["method"] = [names[i] for i in wide["rule"]]
        tables.append(wide[wide["rule"] > 0][[*keys, "method", *columns]].assign(seed=seed))
    return pd.concat(tables, ignore_index=True)


def lens_table(effects: pd.DataFrame) -> pd.DataFrame:
    """Prediction and measurement of each method's effect, relative to GRPO: means over batches, intervals over seeds.

    The predictions are multiplied by one factor for all methods, fitted by least squares to what each optimizer did
    (see `best_factor`), since the theorem moves logits and an optimizer moves weights.

    Returns:
        method; for adam and sgd: `NAME_predicted`, `NAME`, `NAME_low`, `NAME_high` (nats), and `NAME_agrees`, a bool
        where the interval of the measurement excludes zero, else None.

    Raises:
        ValueError: the best factor is not positive, so that the predictions point the wrong way as a whole.
    """
    means = effects.groupby(["method", "seed"], sort=False)[["predicted", "adam", "sgd"]].mean().reset_index()
    table = means.groupby("method", sort=False)["predicted"].mean().reset_index()
    for name in ("adam", "sgd"):
        measured = summary(means, "method", name)
        factor = best_factor(table["predicted"], measured["mean"].to_numpy())
        if not factor > 0:
            raise ValueError(f"the predictions fit {name} with a factor of {factor:.3g}, expected a positive one")
        table[f"{name}_predicted"] = factor * table["predicted"]
        for column, suffix in (("mean", ""), ("low", "_low"), ("high", "_high")):
            table[f"{name}{suffix}"] = measured[column].to_numpy()
        clear = (table[f"{name}_low"] > 0) | (table[f"{name}_high"] < 0)
        same = table["predicted"] * table[name] > 0
        table[f"{name}_agrees"] = [bool(y) if c else None for c, y in zip(clear, same)]
    return table.drop(columns="predicted")


def token_table(records: Mapping[int, Record]) -> pd.DataFrame:
    """The tokens of probes, by seed: one row a token of a batch, see the README of `data/`."""
    tables = []
    for seed, record in records.items():
        columns = {name: tensor.numpy() for name, tensor in record.tensors.items()}
        table = pd.DataFrame(columns).rename(columns={"at": "step"})
        texts = dict(zip(dict.fromkeys(table["step"]), record.document["texts"]))
        pairs = [texts[step][row] for step, row in zip(table["step"], table["row"])]
        table["problem"], table["response"] = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        table["token"] = [ALPHABET[i] for i in table["token"]]
        tables.append(table.assign(seed=seed))
    places = ["seed", "step", "update", "problem", "response", "row", "position", "token"]
    statistics = ["probability", "entropy", "discriminator", "centred", "advantage", "ratio", "predicted", "measured"]
    return pd.concat(tables, ignore_index=True)[places + statistics]


def clipping_masks(tokens: pd.DataFrame, mu: Mapping[str, float]) -> dict[str, pd.Series]:
    """What Clip_B and Clip_V mask in each batch (seed, step, update) of a table of tokens, in both readings.

    Args:
        tokens: as `token_table`; mu: by "clip_b" and "clip_v".

    Returns:
        By "METHOD, READING", a bool Series with the index of `tokens`: True where the token is masked.
    """
    rules = {"Clip_B": (clipping.clip_b, mu["clip_b"]), "Clip_V": (clipping.clip_v, mu["clip_v"])}
    masks = {}
    for name, (clip, threshold) in rules.items():
        for reading in clipping.READINGS:
            parts = []
            for _, batch in tokens.groupby(["seed", "step", "update"], sort=False):
                s, d, a = (torch.tensor(batch[c].to_numpy()) for c in ("discriminator", "centred", "advantage"))
                statistics = TokenStatistics(torch.zeros_like(s), torch.zeros_like(s), s, s - d)
                keep = clip(statistics, a, torch.ones_like(s, dtype=torch.bool), mu=threshold, reading=reading)
                parts.append(pd.Series(~keep.numpy(), index=batch.index))
            masks[f"{name}, {reading}"] = pd.concat(parts).loc[tokens.index]
    return masks


def masked_summary(tokens: pd.DataFrame, masks: Mapping[str, pd.Series]) -> pd.DataFrame:
    """What kind of tokens a mask takes: shares of all tokens, means, and the entropy change that goes with them.

    Returns:
        By mask: share of the tokens; negative, share of the masked with A < 0; probability and entropy, means over the
        masked; lowers, share of the masked with A D > 0; effect, see `_effect`.
    """
    rows = {}
    for name, mask in masks.items():
        some = tokens[mask]
        rows[name] = {
            "share": mask.mean(),
            "negative": (some["advantage"] < 0).mean(),
            "probability": some["probability"].mean(),
            "entropy": some["entropy"].mean(),
            "lowers": (some["advantage"] * some["centred"] > 0).mean(),
            "effect": _effect(some, tokens),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def masked_parts(tokens: pd.DataFrame, mask: pd.Series) -> pd.DataFrame:
    """The masked tokens by sign of A and by the side of the batch mean of S: tokens, lowers and effect as above."""
    some = tokens[mask & (tokens["advantage"] != 0)]
    centre = tokens.groupby(["seed", "step", "update"])["discriminator"].transform("mean")
    sign = np.where(some["advantage"] > 0, "A > 0", "A < 0")
    side = np.where(some["discriminator"] > centre[some.index], "high", "low")
    groups = some.groupby([sign, side])
    return groups.apply(
        lambda part: pd.Series(
            {
                "tokens": len(part),
                "lowers": (part["advantage"] * part["centred"] > 0).mean(),
                "effect": _effect(part, tokens),
            }
        )
    )


def _effect(some: pd.DataFrame, tokens: pd.DataFrame) -> float:
    """Sum of -r A D over some tokens in percent of the sum of |r A D| over all."""
    total = (tokens["ratio"] * tokens["advantage"] * tokens["centred"]).abs().sum()
    return float(-100 * (some["ratio"] * some["advantage"] * some["centred"]).sum() / total)


def sweep_table(final: pd.DataFrame) -> pd.DataFrame:
    """Clip_B's and Clip_V's arms of `comparisons.sweeps` by mu: method, reading, mu, quantity, mean, low, high.

    Args:
        final: evaluations with the columns family, strength and seed.
    """
    parts = []
    for family in ("Clip_B", "Clip_B two-sided", "Clip_V", "Clip_V two-sided"):
        method, _, reading = family.partition(" ")
        for quantity in ("entropy", "avg", "pass"):
            values = summary(final[final["family"] == family], "strength", quantity).sort_index()
            part = values.rename_axis("mu").reset_index()
            parts.append(part.assign(method=method, reading=reading or "released", quantity=quantity))
    return pd.concat(parts, ignore_index=True)


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
