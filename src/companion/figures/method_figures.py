"""The figures of notebooks 07 and 08: each function draws tables and returns the figure."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from companion.figures.style import (
    ACCENT,
    COLOURS,
    INK,
    NEGATIVE,
    NEUTRAL,
    PALE,
    POSITIVE,
    SKY,
    VIOLET,
    WIDTH,
    colour,
    legend,
)


def lens(table: pd.DataFrame, finals: pd.DataFrame) -> Figure:
    """Predicted and measured effect of each method after one update, and the final entropy of full runs.

    Args:
        table: of `tables.lens_table`, in the order of the rows from top to bottom.
        finals: mean, low, high of the final entropy minus GRPO's, by method; rows without one stay empty there.
    """
    figure, panels = plt.subplots(1, 3, figsize=(WIDTH, 0.19 * len(table) + 1.7), sharey=True)
    rows = -np.arange(len(table))
    for panel, name, title in zip(panels, ("sgd", "adam"), ("one update,\nSGD", "one update,\nAdam")):
        low, high = table[name] - table[f"{name}_low"], table[f"{name}_high"] - table[name]
        panel.errorbar(table[name], rows, xerr=(low, high), fmt="o", color=POSITIVE, ms=4, lw=1.2, label="measured")
        panel.plot(table[f"{name}_predicted"], rows, "D", mfc="none", color=NEGATIVE, ms=5, label="predicted, scaled")
        largest = table[[name, f"{name}_predicted"]].abs().to_numpy().max()
        power = int(np.floor(np.log10(largest)))
        panel.set_xscale("symlog", linthresh=10.0 ** (power - 1), linscale=0.8)
        panel.set_xlim(-2 * largest, 2 * largest)
        ticks = {sign * 10.0**power: f"${'-' * (sign < 0)}10^{{{power}}}$" for sign in (-1, 1)}
        panel.set_xticks([0, *ticks], ["0", *ticks.values()])
        panel.set_title(title)
        panel.set_xlabel(f"minus GRPO's\n(nats, symlog,\nlinear below\n$10^{{{power - 1}}}$)")
    chosen = finals.reindex(table["method"])
    spread = (chosen["mean"] - chosen["low"], chosen["high"] - chosen["mean"])
    panels[2].errorbar(chosen["mean"], rows, xerr=spread, fmt="s", color=INK, ms=3.5, lw=1)
    panels[2].set_title("full run,\nfinal entropy")
    panels[2].set_xlabel("minus GRPO's\n(nats, linear)")
    panels[0].set_yticks(rows, table["method"])
    panels[0].set_ylim(-len(table), 1)
    for panel in panels:
        panel.axvline(0, color=INK, lw=0.8)
        panel.grid(axis="y", lw=0.3)
        panel.minorticks_off()
    legend(figure)
    return figure


def rivals(table: pd.DataFrame) -> Figure:
    """How each predictor ranks the rules: one panel a measurement, one row a predictor.

    Args:
        table: measured (the panel's title), predictor, and of `lens_checks.rank_table` rank, seed, low, high.
    """
    titles, names = (list(dict.fromkeys(table[column])) for column in ("measured", "predictor"))
    figure, panels = plt.subplots(1, len(titles), figsize=(WIDTH, 2.4), sharey=True, sharex=True)
    rows = -np.arange(len(names))
    for panel, title in zip(panels, titles):
        some = table[table["measured"] == title].set_index("predictor").loc[names]
        spread = (some["seed"] - some["low"], some["high"] - some["seed"])
        panel.errorbar(some["seed"], rows, xerr=spread, fmt="o", color=POSITIVE, ms=4, lw=1.2, label="within a seed")
        panel.plot(some["rank"], rows, "D", mfc="none", color=NEGATIVE, ms=5, label="of means over seeds")
        panel.axvline(0, color=INK, lw=0.8)
        panel.set_title(title.replace(", ", ",\n"))
        panel.set_xlabel("rank correlation")
    panels[0].set_yticks(rows, names)
    panels[0].set_xlim(-0.2, 1.05)
    legend(figure)
    return figure


def clipped_tokens(tokens: pd.DataFrame, bound: float) -> Figure:
    """Probability of the tokens that PPO clips, by sign of A; and their D against their probability."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 4.4), sharex=True)
    for sign, shade, label in ((1, POSITIVE, "$A > 0$, $r > 1.2$"), (-1, NEGATIVE, "$A < 0$, $r < 0.8$")):
        some = tokens[np.sign(tokens["advantage"]) == sign]
        above.hist(some["probability"], bins=np.linspace(0, 1, 41), histtype="step", color=shade, lw=1.4, label=label)
        below.plot(some["probability"], some["centred"], ".", color=shade, ms=4, alpha=0.6)
    above.axvline(bound, color=INK, ls="--", lw=1, label="the paper's bound")
    below.axhline(0, color=INK, lw=0.8)
    above.set(ylabel="tokens")
    below.set(xlabel="probability of a clipped token", ylabel="$D$ (nats)")
    legend(figure, columnspacing=0.9, handlelength=1.4)
    return figure


def masked_tokens(tokens: pd.DataFrame, thresholds: Mapping[str, float]) -> Figure:
    """Histograms of S and D by sign of A; the shaded side of each threshold is what the released reading masks."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 2.7), sharey=True)
    for panel, name, label in zip(panels, ("discriminator", "centred"), ("$S_*$ (nats)", "$D$ (nats)")):
        edges = np.linspace(tokens[name].min(), tokens[name].max(), 60)
        for sign, shade in ((1, POSITIVE), (-1, NEGATIVE)):
            some = tokens[np.sign(tokens["advantage"]) == sign]
            text = "$A > 0$" if sign > 0 else "$A < 0$"
            panel.hist(some[name], bins=edges, histtype="step", color=shade, lw=1.3, label=text)
        panel.axvspan(edges[0], thresholds[name], color=NEGATIVE, alpha=0.12, lw=0, label="masked if $A < 0$")
        panel.axvline(thresholds[name], color=INK, ls="--", lw=1)
        panel.set(xlabel=label, yscale="log")
    panels[0].set_ylabel("tokens (log)")
    legend(figure)
    return figure


def sweep(table: pd.DataFrame, grpo: pd.DataFrame) -> Figure:
    """Final entropy, Avg@K and Pass@32 against mu, for Clip_B and Clip_V in both readings; bands are 95 % over seeds.

    Args:
        table: method, reading, mu, quantity, mean, low, high; grpo: mean, low, high of plain GRPO by quantity.
    """
    labels = {"entropy": "final entropy\n(nats)", "avg": "Avg@32", "pass": "Pass@32"}
    methods = list(dict.fromkeys(table["method"]))
    figure, panels = plt.subplots(len(labels), len(methods), figsize=(WIDTH, 5.2), sharex="col", sharey="row")
    for row, (quantity, label) in zip(panels, labels.items()):
        reference = grpo.loc[quantity]
        for panel, method in zip(row, methods):
            panel.axhspan(reference["low"], reference["high"], color=COLOURS["GRPO"], alpha=0.2, lw=0)
            panel.axhline(reference["mean"], color=COLOURS["GRPO"], lw=1, label="GRPO")
            for reading, style in (("released", "-"), ("two-sided", "--")):
                line = table[(table["method"] == method) & (table["reading"] == reading)]
                line = line[line["quantity"] == quantity]
                look = {"color": colour(method), "ls": style, "lw": 1.4, "label": f"{method}, {reading}"}
                panel.plot(line["mu"], line["mean"], marker="o", ms=3, **look)
                panel.fill_between(line["mu"], line["low"], line["high"], color=colour(method), alpha=0.15, lw=0)
        row[0].set_ylabel(label)
    for panel, method in zip(panels[0], methods):
        panel.set_title(method)
    for panel in panels[-1]:
        panel.set_xlabel("mu (deviations)")
    legend(figure, columns=2)
    return figure


def cost(table: pd.DataFrame) -> Figure:
    """Time and extra memory of the statistics of 512 tokens against the vocabulary, forward; one line a way.

    Args:
        table: way, vocabulary, milliseconds, memory (extra bytes over those of the logits).
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 5.0), sharex=True)
    shades = (POSITIVE, SKY, NEGATIVE, VIOLET, INK, PALE)
    for (way, some), shade, marker in zip(table.groupby("way", sort=False), shades, "oPsD^v", strict=True):
        above.loglog(some["vocabulary"], some["milliseconds"], marker=marker, color=shade, label=way)
        below.semilogx(some["vocabulary"], some["memory"], marker=marker, color=shade)
    for panel in (above, below):
        panel.minorticks_off()
    sizes = list(dict.fromkeys(table["vocabulary"]))
    below.set_xticks(sizes, [f"{size:,}" for size in sizes])
    below.set_xlabel("vocabulary (words; log)")
    above.set_ylabel("milliseconds (log)")
    below.set_ylabel("peak extra memory\nover the logits'")
    legend(figure, columns=2)
    return figure


def growth(table: pd.DataFrame, slopes: Mapping[tuple[str, str], tuple[float, float]]) -> Figure:
    """Time and extra memory against size along one axis at a time, both relative to the smallest; slopes in the titles.

    Args:
        table: what, axis, size, milliseconds, megabytes.
        slopes: of time and memory in logarithms, by what and axis.
    """
    whats, axes = (list(dict.fromkeys(table[name])) for name in ("what", "axis"))
    looks = dict(zip(axes, zip((POSITIVE, NEGATIVE, ACCENT, NEUTRAL, VIOLET), "osD^v")))
    figure, panels = plt.subplots(len(whats), 2, figsize=(WIDTH, 2.0 * len(whats) + 0.8), sharex=True, sharey=True)
    for row, what in zip(panels, whats):
        for panel, number, name in zip(row, (0, 1), ("milliseconds", "megabytes")):
            drawn = table[table["what"] == what]
            for axis, some in drawn.groupby("axis", sort=False):
                shade, marker = looks[axis]
                least = some[name].clip(lower=1.0)
                panel.loglog(
                    some["size"] / some["size"].iloc[0], least / least.iloc[0], marker=marker, color=shade, label=axis
                )
            panel.plot([1, 8], [1, 8], ":", color=NEUTRAL, lw=1)
            panel.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
            panel.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
            panel.minorticks_off()
            found = [f"{slopes[what, axis][number]:.2f}" for axis in dict.fromkeys(drawn["axis"])]
            panel.set_title(f"{what}, {('time', 'memory')[number]}\nslopes {', '.join(found)}")
        row[0].set_ylabel("over the smallest's\n(log)")
    for panel in panels[-1]:
        panel.set_xlabel("size over the smallest (log)")
    legend(figure)
    return figure
