"""The figures of notebook 04: each function draws one table and returns the figure."""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, PercentFormatter

from companion.figures.style import (
    ACCENT,
    GROUND,
    INK,
    NEGATIVE,
    NEUTRAL,
    ORDERED,
    PAPER,
    POSITIVE,
    WIDTH,
    legend,
)
from companion.reports.anatomy_tables import KINDS, PARTS


def findings(table: pd.DataFrame) -> Figure:
    """Bars of `share` (0 to 1), one panel a question, one bar an answer.

    Args:
        table: question, answer, share; bars of one question stand in the order of the rows.
    """
    questions = list(dict.fromkeys(table.question))
    counts = [int((table.question == question).sum()) for question in questions]
    figure, panels = plt.subplots(
        len(questions),
        1,
        figsize=(WIDTH, 0.5 + 0.29 * (len(table) + len(questions))),
        sharex=True,
        height_ratios=counts,
    )
    for panel, question, colour in zip(panels, questions, (POSITIVE, NEGATIVE, ACCENT)):
        answers = table[table.question == question]
        bars = panel.barh(answers.answer, answers.share, color=colour, height=0.62)
        panel.bar_label(bars, [f"{share:.1%}" for share in answers.share], padding=4)
        panel.invert_yaxis()
        panel.set_title(question, loc="left", fontweight="bold")
        panel.grid(axis="y", visible=False)
    panels[-1].set(xlim=(0, 1.22), xticks=np.linspace(0, 1, 5))
    panels[-1].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def remainder_bounds(table: pd.DataFrame) -> Figure:
    """|R| / alpha^2 against the vocabulary: the worst policy that was found, and its bounds; one panel a step.

    Args:
        table: alpha, vocabulary; remainder, its_bound (with the span of that policy) and bound (for every policy), all
            three over alpha^2, in nats.
    """
    steps = sorted(table.alpha.unique())
    figure, panels = plt.subplots(1, len(steps), figsize=(WIDTH, 2.8), sharey=True)
    for panel, alpha in zip(panels, steps):
        group = table[table.alpha == alpha]
        panel.semilogx(group.vocabulary, group.bound, "--", color=NEUTRAL, label="bound for every policy")
        panel.semilogx(group.vocabulary, group.its_bound, "-", color=POSITIVE, label="bound for the worst policy found")
        panel.semilogx(group.vocabulary, group.remainder.abs(), "o", ms=4, color=NEGATIVE, label="worst policy found")
        panel.set(title=f"$|\\alpha| = {alpha:g}$", xlabel="vocabulary $V$\n(log)", ylim=(0, None))
    panels[0].set_ylabel(r"$|R|\,/\,\alpha^2$ (nats)")
    legend(figure, columns=1)
    return figure


def radius_maps(plane: pd.DataFrame, cells: pd.DataFrame) -> Figure:
    """Trust radius over (p, H): of a family of policies, and medians of a language model's tokens."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.2), sharex=True, sharey=True)
    shown = {"norm": LogNorm(0.1, 100), "cmap": ORDERED}
    grid = plane.pivot(index="entropy", columns="p", values="radius")
    left.set_facecolor(GROUND)
    image = left.pcolormesh(grid.columns, grid.index, grid.clip(0.1, 100), rasterized=True, **shown)
    left.text(0.97, 0.97, "no policy", transform=left.transAxes, ha="right", va="top")

    def area(tokens: float) -> float:
        return 14 + 26 * np.log10(tokens)

    right.scatter(cells.p, cells.entropy, c=cells.radius.clip(0.1, 100), s=area(cells.tokens), **shown)
    for tokens in (1, 10, 100):
        right.scatter([], [], s=area(tokens), color=NEUTRAL, label=f"{tokens} token{'s' * (tokens > 1)}")
    h = np.linspace(0.01, plane.entropy.max(), 200)
    for axes, title in ((left, "a family of policies"), (right, "tokens of a\nlanguage model")):
        line = {"color": INK, "lw": 1.2, "path_effects": [withStroke(linewidth=2.6, foreground=PAPER)]}
        axes.plot(np.exp(-h), h, label="$p = e^{-H}$" if axes is left else None, **line)
        axes.set(xscale="log", xlabel="probability $p$ (log)", title=title, ylim=(0, None))
        axes.set_xlim(plane.p.min(), 1)
    left.set_ylabel("entropy $H$ (nats)")
    figure.colorbar(image, ax=[left, right], label=r"trust radius $|\alpha|$ (log)", extend="both")
    legend(figure, columns=4, handletextpad=0.2, columnspacing=0.8)
    return figure


def steps_and_radii(distributions: dict[str, dict[str, pd.Series]]) -> Figure:
    """Distribution functions of trust radii and of effective steps, one panel a policy."""
    figure, panels = plt.subplots(1, len(distributions), figsize=(WIDTH, 3.6), sharey=True)
    for panel, (title, lines) in zip(panels, distributions.items()):
        for (name, values), colour in zip(lines.items(), (INK, POSITIVE, NEGATIVE)):
            x = np.sort(values.abs().to_numpy())
            inside = x < 100  # radii are searched up to there
            share = np.arange(1, len(x) + 1) / len(x)
            panel.plot(x[inside], share[inside], color=colour, lw=1.8, label=name.replace(": ", ":\n"))
        panel.set(xscale="log", xlim=(1e-4, 100), title=title, xlabel=r"$|\alpha|$ (log)", ylim=(0, 1))
        legend(panel, columns=1)
    panels[0].set_ylabel("share of tokens at or below")
    return figure


def predicted_and_measured(states: pd.DataFrame, batches: pd.DataFrame) -> Figure:
    """Measured changes against what Theorem 3.3 and the first order say: of single states above, of batches below.

    Every panel has the 98 % of its points that lie in the middle of both of its axes; the line is the diagonal.
    """
    figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 4.8), sharey="row")
    columns = (("theorem", "Theorem 3.3, one factor", NEGATIVE), ("first", "first order", POSITIVE))
    for row, (table, name, size) in zip(panels, ((states, "single states", 4), (batches, "batch means", 16))):
        for axes, (column, title, colour) in zip(row, columns):
            limits = {axis: table[of].abs().quantile(0.98) * 1.1 for axis, of in (("x", column), ("y", "measured"))}
            axes.axline((0, 0), slope=1, color=INK, lw=0.8)
            axes.scatter(table[column], table.measured, s=size, alpha=0.4, color=colour, lw=0, rasterized=True)
            axes.set(xlim=(-limits["x"], limits["x"]), ylim=(-limits["y"], limits["y"]), title=f"{title}:\n{name}")
            axes.set_xlabel("predicted $\\Delta H$ (nats)")
            axes.locator_params(nbins=4)
            axes.ticklabel_format(scilimits=(-3, -3))
        row[0].set_ylabel("measured $\\Delta H$ (nats)")
    return figure


def where_it_goes(means: pd.DataFrame) -> Figure:
    """Mean measured change by kind of state, one panel a policy, one group of bars a trial; lines: first order."""
    policies = list(dict.fromkeys(means.policy))
    figure, panels = plt.subplots(len(policies), 1, figsize=(WIDTH, 4.6))
    for panel, policy in zip(panels, policies):
        group = means[means.policy == policy]
        trials = list(dict.fromkeys(group.trial))
        for i, (kind, colour) in enumerate(zip(KINDS, (NEGATIVE, ACCENT, POSITIVE))):
            part = group[group.kind == kind].set_index("trial").loc[trials]
            x = np.arange(len(trials)) + 0.26 * (i - 1)
            panel.bar(x, part.measured, width=0.24, color=colour, label=kind)
            first = {"marker": "_", "ls": "none", "color": INK, "ms": 9, "mew": 1.6}
            panel.plot(x, part["first"], label="first order" if i == 0 else None, **first)
        panel.axhline(0, color=INK, lw=0.8)
        panel.set_xticks(range(len(trials)), trials)
        panel.set(title=policy, ylabel="mean change of\nentropy (nats)")
        panel.grid(axis="x", visible=False)
    legend(figure, columns=4, columnspacing=0.9, handlelength=1.2)
    return figure


def kernel(pairs: pd.DataFrame, parts: pd.DataFrame) -> Figure:
    """Above: coupling of every pair of states. Below: shares of what moves the entropy of single states."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 5.4), height_ratios=(1.9, 1))
    order = list(dict.fromkeys(pairs.s))
    grid = pairs.pivot(index="s", columns="t", values="coupling").loc[order, order]
    image = above.imshow(grid, vmin=0, vmax=1, cmap=ORDERED, origin="upper")
    figure.colorbar(image, ax=above, label="coupling of two states", shrink=0.9)
    responses = [name.rsplit("/", 1)[0] for name in order]
    edges = [i - 0.5 for i in range(1, len(order)) if responses[i] != responses[i - 1]]
    for edge in edges:
        problem_changes = responses[int(edge + 0.5)][0] != responses[int(edge - 0.5)][0]
        for line in (above.axvline, above.axhline):
            line(edge, color=PAPER, lw=2.4 if problem_changes else 1.0)
    middles = np.diff([-0.5, *edges, len(order) - 0.5]) / 2 + np.array([-0.5, *edges])
    above.set_xticks(middles, ["A, 1", "A, 2", "B, 1", "B, 2"])
    above.set_yticks(middles, ["problem A,\nresponse 1", "A, 2", "problem B,\nresponse 1", "B, 2"])
    above.grid(False)
    total = parts[list(PARTS)].abs().sum(axis=1)
    shares = [(parts[name].abs() / total) for name in PARTS]
    labels = ["its own\ntoken", "same\nresponse", "same\nproblem", "other\nproblems"]
    below.boxplot(shares, showfliers=False, widths=0.6, medianprops={"color": NEGATIVE, "lw": 2})
    below.set_xticks(range(1, 5), labels)
    below.set(ylabel="share of what moves\na state's entropy", ylim=(0, 1))
    below.grid(axis="x", visible=False)
    return figure


def own_shares(tables: dict[str, pd.DataFrame]) -> Figure:
    """Own share against the size of batch and network, logarithmic both ways; one panel a factor.

    Args:
        tables: by the name of the axis: share, size, mean, low, high, curve (a law fitted without the largest size).
    """
    styles = {"net": (POSITIVE, "o"), "absolute": (NEUTRAL, "^"), "squared": (NEGATIVE, "s")}
    figure, panels = plt.subplots(len(tables), 1, figsize=(WIDTH, 2.1 * len(tables) + 0.6), sharey=True)
    for panel, (factor, table) in zip(panels, tables.items()):
        for share, group in table.groupby("share", sort=False):
            colour, marker = styles[share]
            errors = [group["mean"] - group.low, group.high - group["mean"]]
            panel.errorbar(group["size"], group["mean"], errors, fmt=marker, ms=4.5, color=colour, lw=1.2, label=share)
            last = group.iloc[-1:]
            panel.plot(last["size"], last["mean"], marker, ms=4.5, color=colour, mfc=PAPER, zorder=5)
            panel.plot(group["size"], group.curve, "-", color=colour, lw=1.0)
        sizes = sorted(table["size"].unique())
        panel.set(xscale="log", yscale="log", xlabel=f"{factor} (log)", ylabel="own share of a\nstate's change (log)")
        panel.set_xticks(sizes, [f"{x:g}" for x in sizes])
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
    legend(figure)
    return figure


def ledgers(table: pd.DataFrame, titles: dict[str, str]) -> Figure:
    """Cumulated measured and predicted changes along runs, one panel an arm, one line a seed."""
    figure, panels = plt.subplots(2, -(-len(titles) // 2), figsize=(WIDTH, 4.2), sharex=True, sharey=True)
    lines = (("measured", INK, "-"), ("parameters", POSITIVE, "-"), ("logits", NEGATIVE, "--"))
    names = ("measured", "first order, parameters", "Theorem 3.3, one factor")
    for panel, (arm, title) in zip(panels.flat, titles.items()):
        for _, run in table[table.arm == arm].groupby("seed"):
            for (column, colour, style), name in zip(lines, names):
                panel.plot(run.step, run[column], style, color=colour, lw=1.2, label=name)
        panel.set_title(title)
    for panel in panels[:, 0]:
        panel.set_ylabel("cumulated change\nof mean entropy on\nthe batch (nats)")
    for panel in panels[-1]:
        panel.set_xlabel("batch")
    legend(figure, columns=2)
    return figure
