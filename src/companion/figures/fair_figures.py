"""The figures of notebooks 09 and 10: each function draws tables and returns the figure."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import COLOURS, NEUTRAL, WIDTH, colour


def _intervals(panel: Axes, table: pd.DataFrame, rows: np.ndarray, names: Sequence[str]) -> None:
    """Points with their intervals, one row an entry of `table`: mean, low, high."""
    for row, name, (_, values) in zip(rows, names, table.iterrows()):
        panel.plot([values["low"], values["high"]], [row, row], color=colour(name), lw=1.5)
        panel.plot(values["mean"], row, "o", color=colour(name), ms=5)
    panel.axvline(0, color="black", lw=0.8)
    panel.locator_params(axis="x", nbins=3)
    panel.tick_params(axis="x", labelsize=8)


def differences(table: pd.DataFrame, *, label: str = "minus GRPO's") -> Figure:
    """Arms minus a reference with the same seed, 95 % intervals: one panel a quantity, one row an arm.

    Args:
        table: quantity (the panel's title), arm, mean, low, high.
    """
    quantities, arms = (list(dict.fromkeys(table[name])) for name in ("quantity", "arm"))
    figure, panels = plt.subplots(1, len(quantities), figsize=(WIDTH * 1.1, 0.24 * len(arms) + 1.1), sharey=True)
    rows = -np.arange(len(arms))
    for panel, quantity in zip(panels, quantities):
        _intervals(panel, table[table["quantity"] == quantity].set_index("arm").loc[arms], rows, arms)
        panel.set_title(quantity, fontsize=9)
        panel.set_xlabel(label, fontsize=9)
    panels[0].set_yticks(rows, arms, fontsize=9)
    return figure


def trajectories(table: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Quantities of evaluations against the batch, mean over seeds with 95 % bands: a panel a quantity, a line an arm.

    Args:
        table: quantity, arm, step, mean, low, high; labels: of the panels by quantity.
    """
    figure, panels = plt.subplots(1, len(labels), figsize=(WIDTH * 1.1, 3.1))
    for panel, (quantity, label) in zip(panels, labels.items()):
        for arm, line in table[table["quantity"] == quantity].groupby("arm", sort=False):
            panel.plot(line["step"], line["mean"], color=colour(arm), lw=1.5, label=arm)
            panel.fill_between(line["step"], line["low"], line["high"], color=colour(arm), alpha=0.15, lw=0)
        panel.set(xlabel="batch", title=label)
        panel.title.set_fontsize(9)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=8)
    return figure


def pass_curves(curves: pd.DataFrame, titles: Mapping[int, str]) -> Figure:
    """Pass@k against k for each arm with 95 % bands over seeds, one panel a size of the problems."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
    for panel, (size, title) in zip(panels, titles.items()):
        for arm, line in curves[curves["size"] == size].groupby("arm", sort=False):
            style = ":" if arm == "start" else "-"
            panel.plot(line["k"], line["mean"], color=colour(arm), ls=style, lw=1.5, label=arm)
            panel.fill_between(line["k"], line["low"], line["high"], color=colour(arm), alpha=0.12, lw=0)
        panel.set_xscale("log", base=2)
        panel.set(xlabel="K (logarithmic)", title=title, ylim=(0, 1))
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.minorticks_off()
    panels[0].set_ylabel("Pass@K on test problems")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    return figure


def pass_rates(shares: pd.DataFrame) -> Figure:
    """Share of the test problems by pass rate, one bar an arm: mean over seeds and 95 % interval.

    Args:
        shares: arm, bin, mean, low, high.
    """
    arms, bins = (list(dict.fromkeys(shares[name])) for name in ("arm", "bin"))
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
    width = 0.8 / len(arms)
    for number, arm in enumerate(arms):
        some = shares[shares["arm"] == arm].set_index("bin").loc[bins]
        places = np.arange(len(bins)) + (number - (len(arms) - 1) / 2) * width
        spread = (some["mean"] - some["low"], some["high"] - some["mean"])
        axes.bar(places, some["mean"], width, color=colour(arm), label=arm, yerr=spread, error_kw={"lw": 0.7})
    names = [b if b in ("none", "all") else f"{float(b):.2f}-" for b in bins]
    axes.set_xticks(np.arange(len(bins)), names, fontsize=8)
    axes.set(xlabel="pass rate of a problem", ylabel="share of problems", ylim=(0, None))
    axes.legend(fontsize=8)
    return figure


def frontier(points: pd.DataFrame, *, lines: Sequence[str], titles: Mapping[int, str]) -> Figure:
    """Pass@32 against Avg@32, both minus GRPO's with the same seed, with 95 % intervals; one panel a kind of problems.

    Args:
        points: size, family, and for avg and pass: NAME, NAME_low, NAME_high, in the order of the strength.
        lines: the families that are drawn as lines in colour; all others are grey points with their names.
    """
    figure, panels = plt.subplots(1, len(titles), figsize=(WIDTH * 1.25, 4.2))
    for panel, (size, title) in zip(panels, titles.items()):
        some = points[points["size"] == size]
        for family, line in some.groupby("family", sort=False):
            known = family in lines
            shade, strength = (COLOURS[family], 0.35) if known else (NEUTRAL, 0.25)
            spread = {
                f"{axis}err": (line[name] - line[f"{name}_low"], line[f"{name}_high"] - line[name])
                for axis, name in (("x", "avg"), ("y", "pass"))
            }
            panel.errorbar(line["avg"], line["pass"], **spread, fmt="none", ecolor=shade, lw=0.8, alpha=strength)
            panel.plot(
                line["avg"], line["pass"], "o-" if known else "o", color=shade, ms=4, lw=1.5, label=known and family
            )
            if not known:
                place = (line["avg"].iloc[0], line["pass"].iloc[0])
                panel.annotate(family, place, xytext=(4, 3), textcoords="offset points", fontsize=6.5, color=NEUTRAL)
        panel.plot(0, 0, "*", color="black", ms=13, zorder=5, label="GRPO")
        panel.set(title=title, xlabel="Avg@32 minus GRPO's")
        panel.locator_params(axis="x", nbins=5)
        panel.title.set_fontsize(10)
    panels[0].set_ylabel("Pass@32 minus GRPO's")
    handles, names = panels[0].get_legend_handles_labels()
    shown = [(handle, name) for handle, name in zip(handles, names) if name in (*lines, "GRPO")]
    figure.legend(*zip(*shown), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def at_the_same_average(tests: pd.DataFrame) -> Figure:
    """Pass@32 of each strength minus a free line's at the same Avg@32: one panel a line, one row a strength.

    Args:
        tests: of `answers.at_the_same_average`.
    """
    names = tests["method"] + ", mu " + tests["strength"].map("{:g}".format)
    table = tests.assign(quantity=tests["kind"], arm=names)
    return differences(table, label="Pass@32 minus the line's")


def holding(series: pd.DataFrame, targets: Sequence[float], names: Sequence[str]) -> Figure:
    """Mean entropy of the batches (left) and strength over its largest (right) for every actuator, one row a target.

    Args:
        series: name, target, step, entropy, strength (of its largest), means over seeds; names: those in colour.
    """
    figure, panels = plt.subplots(
        len(targets), 2, figsize=(WIDTH, 2.3 * len(targets) + 0.6), sharex=True, squeeze=False
    )
    shades = dict(zip(names, (COLOURS["Clip_B"], COLOURS["average with the start"], COLOURS["Clip_V"], "#cc78bc")))
    for row, target in zip(panels, targets):
        for name, some in series[series["target"] == target].groupby("name", sort=False):
            look = {"color": shades.get(name, NEUTRAL), "lw": 1.4 if name in shades else 0.7, "label": name}
            for panel, quantity in zip(row, ("entropy", "strength")):
                panel.plot(some["step"], some[quantity].rolling(9, center=True, min_periods=1).mean(), **look)
        row[0].axhline(target, color="black", lw=0.8, ls="--")
        row[0].set_ylabel("mean entropy\nof the batch (nats)")
        row[1].set_ylabel("strength, of\nits largest")
    for panel in panels[-1]:
        panel.set_xlabel("batch")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    shown = [(handle, label) for handle, label in zip(handles, labels) if label in shades]
    figure.legend(*zip(*shown), loc="outside lower center", ncols=len(shown), fontsize=8)
    return figure
