"""The figures of notebook 05: each function draws one table and returns the figure."""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from companion.figures.style import ACCENT, GROUND, INK, NEGATIVE, NEUTRAL, PALE, POSITIVE, VIOLET, WIDTH, legend

LAW_STYLES = {
    "(log t) / t": (POSITIVE, "-"),
    "(log t) / √t": (NEGATIVE, "-"),
    "exponential": (ACCENT, "--"),
    "exponential to a floor": (INK, ":"),
    "power law": (VIOLET, "-."),
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


def training(series: pd.DataFrame, curves: pd.DataFrame, first: int) -> Figure:
    """Entropy of each batch and the laws fitted to those before `first`, one panel a seed."""
    seeds = sorted(series.seed.unique())
    figure, panels = plt.subplots(1, len(seeds), figsize=(WIDTH, 3.0), sharey=True, squeeze=False)
    for panel, seed in zip(panels[0], seeds):
        run = series[series.seed == seed]
        panel.axvspan(run.step.min(), first, color=GROUND, zorder=0)
        panel.plot(run.step, run.entropy, ".", color=PALE, ms=4, label="one batch")
        for law, group in curves[curves.seed == seed].groupby("law", sort=False):
            colour, style = LAW_STYLES[law]
            panel.plot(group.step, group.entropy, color=colour, ls=style, lw=1.6, label=law)
        panel.set(title=f"seed {seed}", xlabel="step", ylim=(0, None))
    panels[0, 0].set_ylabel("mean entropy (nats)")
    legend(figure, columns=2)
    return figure


def exponents(table: pd.DataFrame) -> Figure:
    """The exponent b of each arm, mean and 95 % interval over seeds, and the two of the theory."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.26 * len(table) + 1.5))
    rows = np.arange(len(table))
    for value, label in ((0.5, "1/2\nmasked flow"), (1.0, "1\npolicy gradient")):
        axes.axvline(value, color=NEUTRAL, ls="--", lw=1.2)
        axes.annotate(
            label, (value, 1), (0, 3), axes.get_xaxis_transform(), "offset points", color=NEUTRAL, ha="center"
        )
    for masks, colour, label in ((False, POSITIVE, "no such mask"), (True, NEGATIVE, "rare penalised tokens masked")):
        some = table["masks"] == masks
        axes.hlines(rows[some], table.low[some], table.high[some], color=colour, lw=2)
        axes.plot(table["mean"][some], rows[some], "o", color=colour, label=label)
    axes.set(yticks=rows, yticklabels=table.arm, xlabel="exponent $b$ of the entropy's fall", xlim=(-0.1, None))
    axes.invert_yaxis()
    legend(figure, columns=2)
    return figure
