"""The figures of notebook 06: each function draws one table and returns the figure."""

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from companion.figures.style import ACCENT, NEGATIVE, NEUTRAL, POSITIVE, WIDTH


def reward_and_entropy(series: pd.DataFrame) -> Figure:
    """Reward and entropy of each batch against the step, one line a seed."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 2.9))
    for panel, name, label in zip(panels, ("reward", "entropy"), ("mean reward of the batch", "mean entropy (nats)")):
        for _, group in series.groupby("seed"):
            smooth = group[name].rolling(7, center=True, min_periods=1).mean()
            panel.plot(group.step, group[name], color=POSITIVE, lw=0.5, alpha=0.3)
            panel.plot(group.step, smooth, color=POSITIVE, lw=1.5)
        panel.set(xlabel="step", ylabel=label, ylim=(0, None))
    return figure


def intervention_entropies(bands: pd.DataFrame) -> Figure:
    """Entropy against step for the arms of a comparison: mean over seeds and 95 % band, one panel a condition."""
    conditions = list(dict.fromkeys(bands.condition))
    figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 5.6), sharex=True, sharey=True)
    colours = dict(zip(dict.fromkeys(bands.family), (POSITIVE, NEGATIVE, ACCENT, NEUTRAL, "#e0a080", "black")))
    styles = {"GRPO": ":", "keep at random": "--", "remove at random": "--"}
    for panel, condition in zip(panels.flat, conditions):
        for family, group in bands[bands.condition == condition].groupby("family", sort=False):
            style = styles.get(family, "-")
            panel.plot(group.step, group["mean"], color=colours[family], ls=style, lw=1.6, label=family)
            panel.fill_between(group.step, group.low, group.high, color=colours[family], alpha=0.15, lw=0)
        panel.set_title(condition, fontsize=10)
    for panel in panels[:, 0]:
        panel.set_ylabel("mean entropy (nats)")
    for panel in panels[1]:
        panel.set_xlabel("step")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    return figure


def ledger(table: pd.DataFrame, steered: pd.DataFrame) -> Figure:
    """Left: changes of mean entropy along one run, cumulated. Right: measured against predicted, single steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.3), width_ratios=(1.4, 1))
    lines = {
        "measured": ("black", "-", "measured"),
        "parameters": (POSITIVE, "-", "first order, parameters"),
        "logits": (NEGATIVE, "--", "Theorem 3.3, scaled"),
    }
    for name, (colour, style, label) in lines.items():
        left.plot(table.step + 1, table[name].cumsum(), color=colour, ls=style, lw=1.5, label=label)
    left.set(xlabel="step", ylabel="cumulated change of\nmean entropy on the batch (nats)")
    left.legend(fontsize=8)
    ends = [steered.measured.min(), steered.measured.max()]
    right.plot(ends, ends, color="black", lw=0.8)
    right.plot(steered.logits, steered.measured, "x", color=NEGATIVE, ms=4, alpha=0.7)
    right.plot(steered.parameters, steered.measured, "o", color=POSITIVE, ms=3, alpha=0.7)
    right.set(xlabel="predicted change (nats)", ylabel="measured change (nats)")
    right.locator_params(axis="x", nbins=4)
    return figure


def centred_ratio(table: pd.DataFrame) -> Figure:
    """|mean D| / mean S of each batch along a run, beside its expected size."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
    axes.semilogy(table.step, table.ratio, ".", color=POSITIVE, ms=4, label="one batch, $|$mean $D|$ / mean $S_*$")
    axes.semilogy(table.step, table.expected, color="black", lw=1.2, label="standard error of mean $D$ / mean $S_*$")
    axes.semilogy(table.step, table.running, color=NEGATIVE, lw=1.5, label="all batches so far")
    axes.set(xlabel="step", ylabel="ratio")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return figure
