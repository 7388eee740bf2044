"""The figures of notebooks 11 and 12: each function draws one table and returns the figure."""

import numpy as np
import pandas as pd
import seaborn
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from companion.figures.style import ACCENT, NEGATIVE, NEUTRAL, POSITIVE, WIDTH

LINE = 100  # characters in a line of coloured text
SMOOTHED = 5  # values of a run that are averaged before they are drawn


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
    norm, colours = TwoSlopeNorm(0, -limit, limit), colormaps["RdBu"]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.2 * line))
    for row, column, shown, d in places:
        axes.text(
            column,
            -row,
            shown,
            family="monospace",
            fontsize=7.8,
            va="center",
            color="white" if abs(norm(-d) - 0.5) > 0.35 else "black",
            bbox={"facecolor": colours(norm(-d)), "edgecolor": "none", "pad": 1.2},
        )
    axes.set(xlim=(-0.5, LINE + 0.5), ylim=(-line + 0.9, 0.9))
    axes.axis("off")
    bar = figure.colorbar(
        ScalarMappable(norm, "RdBu"), ax=axes, orientation="horizontal", aspect=40, extend="both", pad=0.02
    )
    bar.set_label("entropy change if this token is rewarded, $-D$ (nats per unit of step); penalised, the reverse")
    return figure


def real_runs(series: pd.DataFrame) -> Figure:
    """Entropy, reward and masked share along runs, one row a task: thin lines single seeds, thick ones an arm's mean.

    Args:
        series: task, arm, seed, update, entropy, reward, masked_negative; drawn are running means of five values.
    """
    tasks = list(dict.fromkeys(series.task))
    figure, rows = plt.subplots(len(tasks), 3, figsize=(WIDTH, 0.9 + 2.2 * len(tasks)), squeeze=False, sharex=True)
    colours = dict(zip(dict.fromkeys(series.arm), (NEUTRAL, POSITIVE, ACCENT, NEGATIVE)))
    labels = {"entropy": "mean entropy (nats)", "reward": "mean reward", "masked_negative": "masked share, $A < 0$"}
    for task, row in zip(tasks, rows):
        for panel, (name, label) in zip(row, labels.items()):
            for arm, colour in colours.items():
                runs = series[(series.task == task) & (series.arm == arm)].pivot(
                    index="update", columns="seed", values=name
                )
                smooth = runs.dropna().rolling(SMOOTHED, center=True, min_periods=1).mean()
                panel.plot(smooth.index, smooth, color=colour, lw=0.6, alpha=0.5)
                panel.plot(smooth.index, smooth.mean(axis=1), color=colour, lw=1.8, label=arm)
            panel.set(ylabel=label, ylim=(0, None))
        row[1].set_title(task, fontsize=10)
    for panel in rows[-1]:
        panel.set_xlabel("update")
    handles, names = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=9)
    return figure


def memory_bars(parts: pd.DataFrame, *, limit: float) -> Figure:
    """Memory of one GPU by use, against the model's size; one panel a number of GPUs, a line at what a GPU has."""
    counts = sorted(parts.gpus.unique())
    figure, panels = plt.subplots(1, len(counts), figsize=(WIDTH, 3.9), sharey=True)
    uses = list(dict.fromkeys(parts.use))
    for panel, gpus in zip(panels, counts):
        table = parts[parts.gpus == gpus].pivot(index="model", columns="use", values="gib")
        table = table.loc[list(dict.fromkeys(parts.model)), uses]
        bottom = np.zeros(len(table))
        for use, colour in zip(uses, seaborn.color_palette("colorblind", len(uses))):
            panel.bar(range(len(table)), table[use], bottom=bottom, color=colour, width=0.75, label=use)
            bottom += table[use].to_numpy()
        panel.axhline(limit, color="black", lw=1.2, ls="--")
        panel.set_xticks(range(len(table)), [name.removeprefix("Qwen2.5-") for name in table.index], fontsize=8)
        panel.set_title(f"{gpus} GPU{'s' if gpus > 1 else ''}", fontsize=10)
        panel.set_ylim(0, 2.2 * limit)
        panel.grid(axis="x", visible=False)
        for i, total in enumerate(bottom):
            if total > 2.2 * limit:
                panel.text(i, 2.2 * limit * 0.985, f"{total:.0f}", ha="center", va="top", fontsize=8, color="white")
    panels[0].set_ylabel("GiB on one GPU")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7.5)
    return figure
