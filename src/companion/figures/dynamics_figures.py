"""The figures of notebook 05: each function draws one table and returns the figure."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from companion.figures.style import ACCENT, GROUND, INK, NEGATIVE, NEUTRAL, PALE, POSITIVE, VIOLET, WIDTH, legend

LAW_STYLES = {
    "(log t) / t": (POSITIVE, "-"),
    "(log t) / √t": (NEGATIVE, "-"),
    "t exp(-t)": (ACCENT, "--"),
    "exponential to a floor": (INK, ":"),
}


def flows(table: pd.DataFrame) -> Figure:
    """Entropy of two arms against time on logarithmic axes, one line a `flow`."""
    styles = zip((POSITIVE, NEGATIVE, VIOLET, ACCENT, NEUTRAL, INK), ("-", "-", "--", "-.", ":", "--"))
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    for (name, group), (colour, style) in zip(table.groupby("flow", sort=False), styles):
        axes.loglog(group.time, group.entropy, color=colour, ls=style, lw=2, label=name)
    axes.set(xlabel="time $t$ (steps times learning rate; log)", ylabel="entropy (nats; log)")
    axes.set_ylim(1e-4, 1)
    legend(figure, columns=1)
    return figure


def equal_arms(table: pd.DataFrame) -> Figure:
    """Probability of each arm against time (logarithmic), one panel a `flow`."""
    arms = list(dict.fromkeys(table.arm))
    styles = dict(zip(arms, zip((POSITIVE, ACCENT, NEGATIVE, NEUTRAL), ("-", "--", "-.", ":"))))
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 2.8), sharey=True)
    for panel, (name, flow) in zip(panels, table.groupby("flow", sort=False)):
        for arm, group in flow.groupby("arm", sort=False):
            colour, style = styles[arm]
            panel.semilogx(group.time, group.probability, color=colour, ls=style, lw=2, label=arm)
        panel.set(title=name, xlabel="time $t$ (log)", ylim=(0, 1))
    panels[0].set_ylabel("probability")
    legend(figure, columns=2)
    return figure


def training(fitted: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Measured entropy and the laws of flows that were fitted to the grey part, means over seeds, one panel an arm.

    Args:
        fitted: as `entropy_laws.curves`.
    """
    rows = -(-len(arms) // 2)
    size = (WIDTH, 1.9 * rows + 0.9)
    figure, panels = plt.subplots(rows, 2, figsize=size, sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat[len(arms) :]:
        panel.set_axis_off()
    for panel, arm in zip(panels.flat, arms):
        of_arm = fitted[fitted["arm"] == arm]
        means = of_arm.groupby(["law", "step"], sort=False)[["measured", "entropy"]].mean()
        panel.axvspan(0, of_arm.loc[of_arm["held_out"], "step"].min(), color=GROUND, zorder=0)
        measured = means.loc[next(iter(LAW_STYLES)), "measured"]
        panel.plot(measured.index, measured, ".", color=PALE, ms=3, label="measured")
        for law, (colour, style) in LAW_STYLES.items():
            curve = means.loc[law, "entropy"]
            panel.plot(curve.index, curve, color=colour, ls=style, lw=1.6, label=law)
        panel.set(title=f"{arm} ({of_arm['seed'].nunique()} seeds)", ylim=(0, None))
    for panel in panels[-1]:
        panel.set_xlabel("batch")
    for panel in panels[:, 0]:
        panel.set_ylabel("mean entropy (nats)")
    legend(figure)
    return figure


def exponents(table: pd.DataFrame) -> Figure:
    """The exponent b of each arm, mean and 95 % interval over seeds, and the two of the flows.

    Args:
        table: as `entropy_laws.constants`, with `masks`, whether the arm masks rare penalised tokens.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.26 * len(table) + 1.5))
    rows = np.arange(len(table))
    for value, label, side in ((0.5, "masked flow: 1/2", "right"), (1.0, "policy gradient: 1", "left")):
        axes.axvline(value, color=NEUTRAL, ls="--", lw=1.2)
        axes.annotate(label, (value, 1), (0, 3), axes.get_xaxis_transform(), "offset points", color=NEUTRAL, ha=side)
    for masks, colour, label in ((False, POSITIVE, "no such mask"), (True, NEGATIVE, "rare penalised tokens masked")):
        some = table["masks"] == masks
        axes.hlines(rows[some], table.exponent_low[some], table.exponent_high[some], color=colour, lw=2)
        axes.plot(table.exponent[some], rows[some], "o", color=colour, label=label)
    axes.set(yticks=rows, yticklabels=table.arm, xlabel="exponent $b$ of the entropy's fall")
    axes.invert_yaxis()
    legend(figure, columns=2)
    return figure
