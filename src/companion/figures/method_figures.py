"""The figures of notebooks 07 and 08: each function draws tables and returns the figure."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from companion.figures.style import ACCENT, NEGATIVE, NEUTRAL, POSITIVE, WIDTH


def lens(table: pd.DataFrame, finals: pd.DataFrame) -> Figure:
    """Predicted and measured effect of each method after one update, and the final entropy of full runs.

    Args:
        table: of `tables.lens_table`, in the order of the rows from top to bottom.
        finals: mean, low, high of the final entropy minus GRPO's, by method; rows without one stay empty there.
    """
    figure, panels = plt.subplots(1, 3, figsize=(WIDTH * 1.15, 0.2 * len(table) + 1.5), sharey=True)
    rows = -np.arange(len(table))
    for panel, name, title in zip(panels, ("sgd", "adam"), ("one update, SGD", "one update, Adam")):
        low, high = table[name] - table[f"{name}_low"], table[f"{name}_high"] - table[name]
        panel.errorbar(table[name], rows, xerr=(low, high), fmt="o", color=POSITIVE, ms=4, lw=1.2, label="measured")
        panel.plot(table[f"{name}_predicted"], rows, "D", mfc="none", color=NEGATIVE, ms=5, label="predicted, scaled")
        largest = table[[name, f"{name}_predicted"]].abs().to_numpy().max()
        power = int(np.floor(np.log10(largest)))
        panel.set_xscale("symlog", linthresh=10.0 ** (power - 1), linscale=0.8)
        panel.set_xlim(-2 * largest, 2 * largest)
        ticks = {sign * 10.0**p: f"${'-' * (sign < 0)}10^{{{p}}}$" for sign in (-1, 1) for p in (power - 1, power)}
        panel.set_xticks([0, *ticks], ["0", *ticks.values()], fontsize=7)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(f"change minus GRPO's (nats),\nsymlog, linear to $10^{{{power - 1}}}$", fontsize=8)
    chosen = finals.reindex(table["method"])
    spread = (chosen["mean"] - chosen["low"], chosen["high"] - chosen["mean"])
    panels[2].errorbar(chosen["mean"], rows, xerr=spread, fmt="s", color="black", ms=3.5, lw=1, label="measured")
    panels[2].set_title("full run", fontsize=10)
    panels[2].set_xlabel("final entropy\nminus GRPO's (nats)", fontsize=8)
    panels[0].set_yticks(rows, table["method"], fontsize=8)
    panels[0].set_ylim(-len(table), 1)
    for panel in panels:
        panel.axvline(0, color="black", lw=0.8)
        panel.grid(axis="y", lw=0.3)
        panel.minorticks_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=8)
    return figure


def rivals(table: pd.DataFrame) -> Figure:
    """How each predictor ranks the rules: one panel a measurement, one row a predictor.

    Args:
        table: measured (the panel's title), predictor, and of `lens_checks.rank_table` rank, seed, low, high.
    """
    titles, names = (list(dict.fromkeys(table[column])) for column in ("measured", "predictor"))
    figure, panels = plt.subplots(1, len(titles), figsize=(WIDTH * 1.1, 2.3), sharey=True, sharex=True)
    rows = -np.arange(len(names))
    for panel, title in zip(panels, titles):
        some = table[table["measured"] == title].set_index("predictor").loc[names]
        spread = (some["seed"] - some["low"], some["high"] - some["seed"])
        panel.errorbar(some["seed"], rows, xerr=spread, fmt="o", color=POSITIVE, ms=4, lw=1.2, label="within a seed")
        panel.plot(some["rank"], rows, "D", mfc="none", color=NEGATIVE, ms=5, label="of means over seeds")
        panel.axvline(0, color="black", lw=0.8)
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("rank correlation", fontsize=8)
    panels[0].set_yticks(rows, names, fontsize=8)
    panels[0].set_xlim(-0.2, 1.05)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    return figure


def clipped_tokens(tokens: pd.DataFrame, bound: float) -> Figure:
    """Probability of the tokens that PPO clips, by sign of A; and their D against their probability."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.0))
    for sign, colour, label in ((1, POSITIVE, "A > 0, r > 1.2"), (-1, NEGATIVE, "A < 0, r < 0.8")):
        some = tokens[np.sign(tokens["advantage"]) == sign]
        left.hist(some["probability"], bins=np.linspace(0, 1, 41), color=colour, alpha=0.6, label=label)
        right.plot(some["probability"], some["centred"], ".", color=colour, ms=2.5, alpha=0.5)
    left.axvline(bound, color="black", ls="--", lw=1)
    right.axhline(0, color="black", lw=0.8)
    left.set(xlabel="probability of a clipped token", ylabel="tokens")
    left.legend(fontsize=8)
    right.set(xlabel="probability of a clipped token", ylabel="$D$ (nats)")
    return figure


def masked_tokens(tokens: pd.DataFrame, thresholds: Mapping[str, float]) -> Figure:
    """Histograms of S and D by sign of A; the shaded side of each threshold is what the released reading masks."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.0), sharey=True)
    for panel, name, label in zip(panels, ("discriminator", "centred"), ("$S_*$ (nats)", "$D$ (nats)")):
        edges = np.linspace(tokens[name].min(), tokens[name].max(), 60)
        for sign, colour in ((1, POSITIVE), (-1, NEGATIVE)):
            some = tokens[np.sign(tokens["advantage"]) == sign]
            text = "A > 0" if sign > 0 else "A < 0"
            panel.hist(some[name], bins=edges, histtype="step", color=colour, lw=1.3, label=text)
        panel.axvspan(edges[0], thresholds[name], color=NEGATIVE, alpha=0.12, lw=0)
        panel.axvline(thresholds[name], color="black", ls="--", lw=1)
        panel.set(xlabel=label, yscale="log")
    panels[0].set_ylabel("tokens")
    panels[0].legend(fontsize=8)
    return figure


def trajectories(series: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Entropy and reward of each batch against the step, mean over seeds."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.1))
    looks = [(NEUTRAL, "-"), (POSITIVE, "-"), (POSITIVE, "--"), (ACCENT, "-"), (ACCENT, "--"), (NEGATIVE, ":")]
    for arm, (colour, style) in zip(arms, [*looks, ("#cc78bc", ":")]):
        mean = series[series.arm == arm].groupby("step")[["entropy", "reward"]].mean()
        smooth = mean.rolling(5, center=True, min_periods=1).mean()
        for panel, name in zip(panels, ("entropy", "reward")):
            panel.plot(smooth.index, smooth[name], ls=style, color=colour, lw=1.5, label=arm)
    panels[0].set(xlabel="step", ylabel="mean entropy (nats)", ylim=(0, None))
    panels[1].set(xlabel="step", ylabel="mean reward")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def sweep(table: pd.DataFrame, grpo: pd.DataFrame) -> Figure:
    """Final entropy, Avg@K and Pass@32 against mu, for Clip_B and Clip_V in both readings; bands are 95 % over seeds.

    Args:
        table: method, reading, mu, quantity, mean, low, high; grpo: mean, low, high of plain GRPO by quantity.
    """
    labels = {"entropy": "final entropy (nats)", "avg": "Avg@32", "pass": "Pass@32"}
    figure, panels = plt.subplots(2, 3, figsize=(WIDTH * 1.1, 4.4), sharey="col")
    for row, (method, some) in zip(panels, table.groupby("method", sort=False)):
        for panel, (quantity, label) in zip(row, labels.items()):
            reference = grpo.loc[quantity]
            panel.axhspan(reference["low"], reference["high"], color=NEUTRAL, alpha=0.2, lw=0)
            panel.axhline(reference["mean"], color=NEUTRAL, lw=1, label="GRPO")
            for reading, colour, style in (("released", POSITIVE, "-"), ("two-sided", NEGATIVE, "--")):
                line = some[(some["reading"] == reading) & (some["quantity"] == quantity)]
                panel.plot(line["mu"], line["mean"], marker="o", ms=3, color=colour, ls=style, lw=1.4, label=reading)
                panel.fill_between(line["mu"], line["low"], line["high"], color=colour, alpha=0.15, lw=0)
            panel.set_title(f"{method}: {label}", fontsize=9)
        row[0].set_ylabel(method)
    for panel in panels[1]:
        panel.set_xlabel("mu (deviations)")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def cost(table: pd.DataFrame) -> Figure:
    """Time and extra memory of the statistics of 512 tokens against the vocabulary, forward; one line a way.

    Args:
        table: way, vocabulary, milliseconds, memory (extra bytes over those of the logits).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.0))
    colours = dict(zip(dict.fromkeys(table["way"]), (POSITIVE, "#56b4e9", NEGATIVE, "#cc78bc", "#ca9161", NEUTRAL)))
    for (way, some), marker in zip(table.groupby("way", sort=False), "oPsD^v"):
        left.loglog(some["vocabulary"], some["milliseconds"], marker=marker, ms=4, color=colours[way], label=way)
        right.semilogx(some["vocabulary"], some["memory"], marker=marker, ms=4, color=colours[way])
    for panel in (left, right):
        panel.set_xlabel("vocabulary (words)")
        panel.minorticks_off()
        sizes = list(dict.fromkeys(table["vocabulary"]))
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
    left.set_ylabel("milliseconds")
    right.set_ylabel("peak extra memory / logits")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return figure


def growth(table: pd.DataFrame, slopes: Mapping[tuple[str, str], tuple[float, float]]) -> Figure:
    """Time and extra memory against size along one axis at a time, both relative to the smallest; slopes in the legend.

    Args:
        table: what, axis, size, milliseconds, megabytes.
        slopes: of time and memory in logarithms, by what and axis.
    """
    whats = list(dict.fromkeys(table["what"]))
    figure, panels = plt.subplots(2, len(whats), figsize=(WIDTH, 4.4), sharex=True, sharey=True)
    for column, what in zip(panels.T, whats):
        for (axis, some), colour, marker in zip(
            table[table["what"] == what].groupby("axis", sort=False), (POSITIVE, NEGATIVE, ACCENT), "osD"
        ):
            for panel, name, slope in zip(column, ("milliseconds", "megabytes"), slopes[what, axis]):
                least = some[name].clip(lower=1.0)
                relative = some["size"] / some["size"].iloc[0], least / least.iloc[0]
                panel.loglog(*relative, marker=marker, ms=4, color=colour, label=f"{axis}: {slope:.2f}")
        for panel in column:
            panel.plot([1, 8], [1, 8], ":", color=NEUTRAL, lw=1)
            panel.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
            panel.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
            panel.minorticks_off()
            panel.legend(fontsize=7, title="slope", title_fontsize=7, loc="upper left")
        column[0].set_title(what)
        column[1].set_xlabel("size / smallest (log)")
    panels[0, 0].set_ylabel("time / smallest's (log)")
    panels[1, 0].set_ylabel("memory / smallest's (log)")
    return figure
