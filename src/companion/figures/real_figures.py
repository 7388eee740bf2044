"""The figures of notebooks 11 and 12: each function draws one table and returns the figure."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from companion.figures.style import (
    ACCENT,
    AMBER,
    INK,
    NEGATIVE,
    NEUTRAL,
    PALE,
    PAPER,
    POSITIVE,
    PURPLE,
    SIGNED,
    SKY,
    VIOLET,
    WIDTH,
    colour,
    legend,
)

LINE = 68  # characters in a line of coloured text
USES = (POSITIVE, AMBER, ACCENT, SKY, PURPLE, VIOLET, NEGATIVE, PALE)  # of memory


def coloured_text(tokens: pd.DataFrame) -> Figure:
    """Responses word by word, each token on the colour of its D.

    Args:
        tokens: response (number), text, centred, in order.
    """
    places, line = [], 0
    for _, group in tokens.groupby("response", sort=False):
        column = 0
        for text, d in zip(group.text, group.centred):
            shown = text.replace("\n", " ")
            if column + len(shown) > LINE:
                line, column = line + 1, 0
            places.append((line, column, shown, d))
            column += len(shown)
        line += 2
    limit = max(0.05, tokens.centred.abs().quantile(0.95))
    norm, colours = TwoSlopeNorm(0, -limit, limit), colormaps[SIGNED]
    figure, axes = plt.subplots(figsize=(WIDTH, 1.0 + 0.2 * line))
    for row, column, shown, d in places:
        axes.text(
            column,
            -row,
            shown,
            family="monospace",
            fontsize=8,
            va="center",
            color=PAPER if abs(norm(-d) - 0.5) > 0.35 else INK,
            bbox={"facecolor": colours(norm(-d)), "edgecolor": "none", "pad": 1.2},
        )
    axes.set(xlim=(-0.5, LINE + 0.5), ylim=(-line + 0.9, 0.9))
    axes.axis("off")
    bar = figure.colorbar(
        ScalarMappable(norm, SIGNED), ax=axes, orientation="horizontal", aspect=40, extend="both", pad=0.02
    )
    bar.set_label("entropy change if this token is rewarded, $-D$\n(nats per unit of step); penalised, the reverse")
    return figure


def real_runs(bands: pd.DataFrame, controls: Mapping[str, str]) -> Figure:
    """Entropy, reward and masked share along runs, one column a task: means over seeds, 95 % bands of all but controls.

    Args:
        bands: quantity, task, arm, step, mean, low, high, of `tables.run_bands`.
        controls: by method, the arm that is its control; drawn dashed in the method's colour.
    """
    methods = {control: method for method, control in controls.items()}
    labels = {"entropy": "mean entropy\n(nats)", "reward": "mean reward", "masked_negative": "masked share,\n$A < 0$"}
    tasks = list(dict.fromkeys(bands["task"]))
    figure, panels = plt.subplots(
        len(labels), len(tasks), figsize=(WIDTH, 5.6), squeeze=False, sharex=True, sharey="row"
    )
    for row, (quantity, label) in zip(panels, labels.items()):
        for panel, task in zip(row, tasks):
            chosen = bands[(bands["quantity"] == quantity) & (bands["task"] == task)]
            for arm, line in chosen.groupby("arm", sort=False):
                of = methods.get(arm)
                panel.plot(line["step"], line["mean"], "--" if of else "-", color=colour(of or arm), lw=1.5, label=arm)
                if not of:
                    panel.fill_between(line["step"], line["low"], line["high"], color=colour(arm), alpha=0.1, lw=0)
        row[0].set(ylabel=label, ylim=(0, None))
    for panel, task in zip(panels[0], tasks):
        panel.set_title(task)
    for panel in panels[-1]:
        panel.set_xlabel("update")
    legend(figure, columns=2)
    return figure


def memory_bars(parts: pd.DataFrame, *, limit: float) -> Figure:
    """Memory of one GPU by use, against the model's size; one panel a number of GPUs, a line at what a GPU has."""
    counts = sorted(parts.gpus.unique())
    figure, panels = plt.subplots(-(-len(counts) // 2), 2, figsize=(WIDTH, 5.0), sharey=True, squeeze=False)
    uses = list(dict.fromkeys(parts.use))
    highest = 2.2 * limit
    for panel, gpus in zip(panels.flat, counts):
        table = parts[parts.gpus == gpus].pivot(index="model", columns="use", values="gib")
        table = table.loc[list(dict.fromkeys(parts.model)), uses]
        bottom = np.zeros(len(table))
        for use, shade in zip(uses, USES, strict=True):
            panel.bar(range(len(table)), table[use], bottom=bottom, color=shade, width=0.75, label=use)
            bottom += table[use].to_numpy()
        panel.axhline(limit, color=INK, lw=1.2, ls="--")
        panel.set_xticks(range(len(table)), [name.removeprefix("Qwen2.5-") for name in table.index])
        panel.set_title(f"{gpus} GPU{'s' if gpus > 1 else ''}", pad=14)
        panel.set_ylim(0, highest)
        panel.grid(axis="x", visible=False)
        for i in np.flatnonzero(bottom > highest):
            panel.annotate(
                f"{bottom[i]:.0f}", (i, highest), (0, 1), textcoords="offset points", ha="center", color=NEUTRAL
            )
    for panel in panels[:, 0]:
        panel.set_ylabel("GiB on one GPU")
    legend(figure, columns=2)
    return figure
