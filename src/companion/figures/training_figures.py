"""The figures of notebook 06: each function draws one table and returns the figure."""

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from companion.figures.style import COLOURS, INK, NEGATIVE, POSITIVE, WIDTH, legend

# Of the arms of an intervention: GRPO's colour and the random control's are those of every figure.
FAMILIES = {
    "keep S": (POSITIVE, "-"),
    "remove S": (NEGATIVE, "-"),
    "keep at random": (COLOURS["random mask"], "--"),
    "remove at random": (INK, ":"),
    "GRPO": (COLOURS["GRPO"], "-"),
}


def reward_and_entropy(series: pd.DataFrame) -> Figure:
    """Reward and entropy of each batch against the step, one line a seed."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 2.4))
    for panel, name, label in zip(panels, ("reward", "entropy"), ("mean reward of the batch", "mean entropy (nats)")):
        for _, group in series.groupby("seed"):
            smooth = group[name].rolling(7, center=True, min_periods=1).mean()
            panel.plot(group.step, group[name], color=COLOURS["GRPO"], lw=0.5, alpha=0.3)
            panel.plot(group.step, smooth, color=COLOURS["GRPO"], lw=1.5)
        panel.set(xlabel="step", ylabel=label, ylim=(0, None))
    return figure


def intervention_entropies(bands: pd.DataFrame) -> Figure:
    """Entropy against step for the arms of a comparison: mean over seeds and 95 % band, one panel a condition."""
    conditions = list(dict.fromkeys(bands.condition))
    figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 4.4), sharex=True)
    for panel, condition in zip(panels.flat, conditions):
        for family, (colour, style) in FAMILIES.items():
            group = bands[(bands.condition == condition) & (bands.family == family)]
            panel.plot(group.step, group["mean"], color=colour, ls=style, lw=1.6, label=family)
            panel.fill_between(group.step, group.low, group.high, color=colour, alpha=0.15, lw=0)
        panel.set_title(condition)
    for panel in panels[:, 0]:
        panel.set_ylabel("mean entropy (nats)")
    for panel in panels[1]:
        panel.set_xlabel("step")
    legend(figure)
    return figure


def ledger(table: pd.DataFrame, steered: pd.DataFrame) -> Figure:
    """Above: changes of mean entropy along one run, cumulated. Below: measured against predicted, single steps."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 5.6), height_ratios=(1, 1.7))
    lines = {
        "measured": (INK, "-", "measured"),
        "parameters": (POSITIVE, "-", "first order, parameters"),
        "logits": (NEGATIVE, "--", "Theorem 3.3, scaled"),
    }
    for name, (colour, style, label) in lines.items():
        above.plot(table.step + 1, table[name].cumsum(), color=colour, ls=style, lw=1.5, label=label)
    above.set(xlabel="step", ylabel="cumulated change of\nmean entropy (nats)")
    below.axline((0, 0), slope=1, color=INK, lw=0.8)
    points = {"ls": "none", "alpha": 0.7}
    below.plot(steered.logits, steered.measured, "x", color=NEGATIVE, ms=4, label="Theorem 3.3, one step", **points)
    below.plot(steered.parameters, steered.measured, "o", color=POSITIVE, ms=3, label="parameters, one step", **points)
    linear, ticks = 0.003, (0.01, 0.05)
    labels = [*(f"-{tick:g}" for tick in reversed(ticks)), "0", *(f"{tick:g}" for tick in ticks)]
    largest = 1.2 * steered[["logits", "parameters", "measured"]].abs().to_numpy().max()
    below.set_xscale("symlog", linthresh=linear, linscale=0.5)
    below.set_yscale("symlog", linthresh=linear, linscale=0.5)
    for axis in (below.xaxis, below.yaxis):
        axis.set_ticks([*(-tick for tick in reversed(ticks)), 0, *ticks], labels)
    below.set(xlim=(-largest, largest), ylim=(-largest, largest), aspect="equal")
    below.set_xlabel(f"predicted change (nats; symlog, linear to {linear:g})")
    below.set_ylabel("measured change (nats; symlog)")
    below.minorticks_off()
    legend(figure, columns=2)
    return figure


def centred_ratio(table: pd.DataFrame) -> Figure:
    """|mean D| / mean S of each batch along a run, beside its expected size."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.9))
    axes.semilogy(table.step, table.ratio, ".", color=POSITIVE, ms=4, label="$|$mean $D|$ / mean $S_*$, one batch")
    axes.semilogy(table.step, table.running, color=NEGATIVE, lw=1.5, label="the same, all batches so far")
    axes.semilogy(table.step, table.expected, color=INK, lw=1.2, label="standard error / mean $S_*$")
    axes.set(xlabel="step", ylabel="ratio (log)")
    legend(figure, columns=2)
    return figure
