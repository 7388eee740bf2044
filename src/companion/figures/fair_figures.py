"""The figures of notebooks 09 and 10, and runs in 08: each function draws tables and returns the figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.figures.style import COLOURS, FAINT, INK, VIOLET, WIDTH, colour, legend


def _intervals(panel: Axes, table: pd.DataFrame, rows: np.ndarray, names: Sequence[str]) -> None:
    """Points with their intervals, one row an entry of `table`: mean, low, high."""
    for row, name, (_, values) in zip(rows, names, table.iterrows()):
        panel.plot([values["low"], values["high"]], [row, row], color=colour(name), lw=1.5)
        panel.plot(values["mean"], row, "o", color=colour(name), ms=5)
    panel.axvline(0, color=INK, lw=0.8)
    panel.locator_params(axis="x", nbins=2)


def differences(table: pd.DataFrame, *, label: str = "minus GRPO's") -> Figure:
    """Arms minus a reference with the same seed, 95 % intervals: one panel a quantity, one row an arm, one scale.

    Args:
        table: quantity (the panel's title), arm, mean, low, high.
    """
    quantities, arms = (list(dict.fromkeys(table[name])) for name in ("quantity", "arm"))
    deep = -(-len(quantities) // 2)
    size = (WIDTH, deep * (0.19 * len(arms) + 1.0))
    figure, panels = plt.subplots(deep, 2, figsize=size, sharex=True, sharey=True, squeeze=False)
    rows = -np.arange(len(arms))
    for panel, quantity in zip(panels.flat, quantities):
        _intervals(panel, table[table["quantity"] == quantity].set_index("arm").loc[arms], rows, arms)
        panel.set_title(quantity)
        panel.set_xlabel(label)
        panel.set_yticks(rows, arms)
        panel.set_ylim(rows[-1] - 0.6, 0.6)
        panel.tick_params(labelbottom=True)
    for panel in panels.flat[len(quantities) :]:
        panel.remove()
    return figure


def _look(arm: str) -> dict[str, Any]:
    """GRPO is dashed and on top, so that it shows where another arm lies on it; masks are dashed, the start dotted."""
    if arm == "GRPO":
        return {"ls": (0, (4, 3)), "zorder": 4}
    return {"ls": ":" if arm == "start" else "--" if "mask" in arm else "-"}


def trajectories(table: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Quantities along runs, mean over seeds with 95 % bands: a panel a quantity, a line an arm.

    Args:
        table: quantity, arm, step, mean, low, high; labels: of the panels by quantity.
    """
    figure, panels = plt.subplots(len(labels), 1, figsize=(WIDTH, 1.9 * len(labels) + 0.8), sharex=True)
    for panel, (quantity, label) in zip(panels, labels.items()):
        for arm, line in table[table["quantity"] == quantity].groupby("arm", sort=False):
            panel.plot(line["step"], line["mean"], color=colour(arm), lw=1.5, label=arm, **_look(arm))
            panel.fill_between(line["step"], line["low"], line["high"], color=colour(arm), alpha=0.15, lw=0)
        panel.set_ylabel(label)
    panels[-1].set_xlabel("batch")
    legend(figure)
    return figure


def pass_curves(curves: pd.DataFrame, titles: Mapping[int, str]) -> Figure:
    """Pass@k against k for each arm with 95 % bands over seeds, one panel a size of the problems."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.0), sharey=True)
    for panel, (size, title) in zip(panels, titles.items()):
        for arm, line in curves[curves["size"] == size].groupby("arm", sort=False):
            panel.plot(line["k"], line["mean"], color=colour(arm), lw=1.5, label=arm, **_look(arm))
            panel.fill_between(line["k"], line["low"], line["high"], color=colour(arm), alpha=0.12, lw=0)
        panel.set_xscale("log", base=2)
        panel.set(xlabel="K (log)", title=title.replace(" (", "\n("), ylim=(0, 1))
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.minorticks_off()
    panels[0].set_ylabel("Pass@K on test problems")
    legend(figure, columns=4)
    return figure


def pass_rates(shares: pd.DataFrame) -> Figure:
    """Share of the test problems by pass rate, one point an arm: mean over seeds and 95 % interval.

    Args:
        shares: arm, bin, mean, low, high.
    """
    arms, bins = (list(dict.fromkeys(shares[name])) for name in ("arm", "bin"))
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    for number, arm in enumerate(arms):
        some = shares[shares["arm"] == arm].set_index("bin").loc[bins]
        places = np.arange(len(bins)) + (number - (len(arms) - 1) / 2) * 0.2
        spread = (some["mean"] - some["low"], some["high"] - some["mean"])
        axes.errorbar(places, some["mean"], yerr=spread, fmt="osD^v"[number], color=colour(arm), lw=1.2, label=arm)
    names = [b if b in ("none", "all") else f"{float(b):.2f}" for b in bins]
    axes.set_xticks(np.arange(len(bins)), names, rotation=45, ha="right")
    axes.set(xlabel="pass rate of a problem (lower edge)", ylabel="share of problems", ylim=(0, None))
    legend(figure)
    return figure


def frontier(
    points: pd.DataFrame, *, lines: Sequence[str], titles: Mapping[int, str], chosen: Sequence[str] = ()
) -> Figure:
    """Pass@32 against Avg@32, both minus GRPO's with the same seed, with 95 % intervals; one panel a kind of problems.

    Args:
        points: size, family, and for avg and pass: NAME, NAME_low, NAME_high, in the order of the strength.
        lines: the families that are drawn as lines; all others are grey points.
        chosen: the arms that get a ring.
    """
    figure, panels = plt.subplots(len(titles), 1, figsize=(WIDTH, 3.6 * len(titles) + 0.8))
    for panel, (size, title) in zip(panels, titles.items()):
        for family, line in points[points["size"] == size].groupby("family", sort=False):
            spread = {
                "xerr": (line["avg"] - line["avg_low"], line["avg_high"] - line["avg"]),
                "yerr": (line["pass"] - line["pass_low"], line["pass_high"] - line["pass"]),
            }
            shade = colour(family) if family in lines else FAINT
            panel.errorbar(line["avg"], line["pass"], fmt="none", ecolor=shade, lw=0.8, alpha=0.4, **spread)
            style = "none" if family not in lines else "-" if family in COLOURS else "--"
            look = {"color": shade, "marker": "o", "ms": 4, "lw": 1.5, "ls": style}
            panel.plot(line["avg"], line["pass"], label=family if family in lines else "other arms", **look)
        ringed = points[(points["size"] == size) & points["arm"].isin(chosen)]
        panel.plot(ringed["avg"], ringed["pass"], "o", ms=9, mfc="none", mec=INK, mew=1.2, zorder=6, label="chosen")
        panel.plot(0, 0, ls="none", marker="*", color=INK, ms=12, zorder=5, label="GRPO")
        panel.set(title=title, xlabel="Avg@32 minus GRPO's", ylabel="Pass@32 minus GRPO's")
    legend(figure, columns=2)
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
    size = (WIDTH, 2.1 * len(targets) + 0.8)
    figure, panels = plt.subplots(len(targets), 2, figsize=size, sharex=True, squeeze=False)
    # D is what Clip_V looks at; the third and the fourth are the controls of the other figures
    shades = dict(zip(names, (COLOURS["Clip_V"], VIOLET, COLOURS["random mask"], COLOURS["entropy bonus"])))
    for row, target in zip(panels, targets):
        for name, some in series[series["target"] == target].groupby("name", sort=False):
            look = {"color": shades.get(name, FAINT), "lw": 1.5 if name in shades else 0.8}
            look["ls"] = "--" if name == "random" else "-"
            for panel, quantity in zip(row, ("entropy", "strength")):
                smooth = some[quantity].rolling(9, center=True, min_periods=1).mean()
                panel.plot(some["step"], smooth, label=name if name in shades else None, **look)
        row[0].axhline(target, color=INK, lw=0.8, ls="--")
        row[0].set_title(f"target {target:g} nats")
        row[0].set_ylabel("mean entropy\nof the batch (nats)")
        row[1].set_ylabel("strength, of\nits largest")
    for panel in panels[-1]:
        panel.set_xlabel("batch")
    legend(figure, columns=2)
    return figure
