"""The figures of notebook 04: each function draws one table and returns the figure."""

import numpy as np
import pandas as pd
import seaborn
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from companion.figures.style import ACCENT, NEGATIVE, NEUTRAL, POSITIVE, WIDTH
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
        panel.bar_label(bars, [f"{share:.1%}" for share in answers.share], padding=4, fontsize=9)
        panel.invert_yaxis()
        panel.set_title(question, fontsize=10, loc="left", fontweight="bold")
        panel.grid(axis="y", visible=False)
        panel.tick_params(axis="y", labelsize=9)
    panels[-1].set(xlim=(0, 1.13), xticks=np.linspace(0, 1, 5))
    panels[-1].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def remainder_bounds(table: pd.DataFrame) -> Figure:
    """|R| / alpha^2 against the vocabulary: the worst policy that was found, and its bounds; one panel a step.

    Args:
        table: alpha, vocabulary; remainder, its_bound (with the span of that policy) and bound (for every policy), all
            three over alpha^2, in nats.
    """
    steps = sorted(table.alpha.unique())
    figure, panels = plt.subplots(1, len(steps), figsize=(WIDTH, 3.2), sharey=True)
    for panel, alpha in zip(panels, steps):
        group = table[table.alpha == alpha]
        panel.semilogx(group.vocabulary, group.bound, "--", color=NEUTRAL, label="bound for every policy")
        panel.semilogx(group.vocabulary, group.its_bound, "-", color=POSITIVE, label="bound for the worst policy found")
        panel.semilogx(group.vocabulary, group.remainder.abs(), "o", ms=4, color=NEGATIVE, label="worst policy found")
        panel.set(title=f"$|\\alpha| = {alpha:g}$", xlabel="vocabulary $V$", ylim=(0, None))
    panels[0].set_ylabel(r"$|R|\,/\,\alpha^2$ (nats)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def radius_maps(plane: pd.DataFrame, cells: pd.DataFrame) -> Figure:
    """Trust radius over (p, H): of a family of policies, and medians of a language model's tokens."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.7), sharex=True, sharey=True)
    norm = LogNorm(0.1, 100)
    grid = plane.pivot(index="entropy", columns="p", values="radius")
    for axes in (left, right):
        axes.set_facecolor("0.9")
    image = left.pcolormesh(grid.columns, grid.index, grid.clip(0.1, 100), norm=norm, cmap="viridis", rasterized=True)
    right.scatter(
        cells.p,
        cells.entropy,
        c=cells.radius.clip(0.1, 100),
        s=14 + 26 * np.log10(cells.tokens),
        norm=norm,
        cmap="viridis",
        edgecolors="white",
        linewidths=0.6,
    )
    h = np.linspace(0.01, plane.entropy.max(), 200)
    for axes, title in ((left, "a family of policies"), (right, "tokens of a language model")):
        axes.plot(np.exp(-h), h, color="white", lw=1.6)
        axes.set(xscale="log", xlabel="probability $p$ of the token", title=title, ylim=(0, None))
        axes.set_xlim(plane.p.min(), 1)
    left.set_ylabel("entropy $H$ (nats)")
    figure.colorbar(image, ax=[left, right], label=r"trust radius $|\alpha|$", extend="both")
    return figure


def steps_and_radii(distributions: dict[str, dict[str, pd.Series]]) -> Figure:
    """Distribution functions of trust radii and of effective steps, one panel a policy."""
    figure, panels = plt.subplots(1, len(distributions), figsize=(WIDTH, 4.0), sharey=True)
    for panel, (title, lines) in zip(panels, distributions.items()):
        colours = ["black", *seaborn.color_palette("flare", len(lines) - 1)]
        for (name, values), colour in zip(lines.items(), colours):
            x = np.sort(values.abs().to_numpy())
            panel.plot(x, np.arange(1, len(x) + 1) / len(x), color=colour, lw=1.8, label=name)
        panel.set(xscale="log", xlim=(1e-4, 1e3), title=title, xlabel=r"$|\alpha|$", ylim=(0, 1))
        panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    panels[0].set_ylabel("share of tokens at or below")
    return figure


def predicted_and_measured(states: pd.DataFrame, batches: pd.DataFrame) -> Figure:
    """Measured changes against what Theorem 3.3 and the first order say: of single states above, of batches below."""
    figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 6.2), constrained_layout=True)
    columns = (("theorem", "Theorem 3.3", NEGATIVE), ("first", "first order", POSITIVE))
    for row, (table, name, size) in zip(panels, ((states, "single states", 4), (batches, "batch means", 16))):
        limit = table.measured.abs().quantile(0.99)
        for axes, (column, title, colour) in zip(row, columns):
            axes.plot([-limit, limit], [-limit, limit], color="black", lw=0.8)
            axes.scatter(table[column], table.measured, s=size, alpha=0.5, color=colour, lw=0, rasterized=True)
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit), title=f"{title}, {name}")
            axes.title.set_fontsize(10)
            axes.set_xlabel("predicted $\\Delta H$ (nats)")
            axes.locator_params(axis="y", nbins=5)
            axes.locator_params(axis="x", nbins=4)  # whose labels are wide
        row[0].set_ylabel("measured $\\Delta H$ (nats)")
    return figure


def where_it_goes(means: pd.DataFrame) -> Figure:
    """Mean measured change by kind of state, one panel a policy, one group of bars a trial; lines: first order."""
    policies = list(dict.fromkeys(means.policy))
    figure, panels = plt.subplots(1, len(policies), figsize=(WIDTH, 3.3), width_ratios=(1.3, 1))
    for panel, policy in zip(panels, policies):
        group = means[means.policy == policy]
        trials = list(dict.fromkeys(group.trial))
        for i, (kind, colour) in enumerate(zip(KINDS, (NEGATIVE, ACCENT, POSITIVE))):
            part = group[group.kind == kind].set_index("trial").loc[trials]
            x = np.arange(len(trials)) + 0.26 * (i - 1)
            panel.bar(x, part.measured, width=0.24, color=colour, label=kind)
            panel.plot(x, part["first"], "k_", ms=9, mew=1.6, label="first order" if i == 0 else None)
        panel.axhline(0, color="black", lw=0.8)
        panel.set_xticks(range(len(trials)), trials, fontsize=8)
        panel.set_title(policy, fontsize=10)
        panel.grid(axis="x", visible=False)
    panels[0].set_ylabel("mean change of entropy (nats)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def kernel(pairs: pd.DataFrame, parts: pd.DataFrame) -> Figure:
    """Left: coupling of every pair of states. Right: shares of what moves the entropy of single states."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.6), width_ratios=(1.1, 1))
    order = list(dict.fromkeys(pairs.s))
    grid = pairs.pivot(index="s", columns="t", values="coupling").loc[order, order]
    image = left.imshow(grid, vmin=0, vmax=1, cmap="viridis", origin="upper")
    figure.colorbar(image, ax=left, label=r"coupling of two states", shrink=0.9)
    responses = [name.rsplit("/", 1)[0] for name in order]
    edges = [i - 0.5 for i in range(1, len(order)) if responses[i] != responses[i - 1]]
    for edge in edges:
        problem_changes = responses[int(edge + 0.5)][0] != responses[int(edge - 0.5)][0]
        for line in (left.axvline, left.axhline):
            line(edge, color="white", lw=2.4 if problem_changes else 1.0)
    middles = np.diff([-0.5, *edges, len(order) - 0.5]) / 2 + np.array([-0.5, *edges])
    names = ["problem A\nresponse 1", "A, 2", "problem B\nresponse 1", "B, 2"]
    left.set_xticks(middles, ["A, 1", "A, 2", "B, 1", "B, 2"])
    left.set_yticks(middles, names, fontsize=8)
    left.grid(False)
    total = parts[list(PARTS)].abs().sum(axis=1)
    shares = [(parts[name].abs() / total) for name in PARTS]
    labels = ["its own\ntoken", "same\nresponse", "same\nproblem", "other\nproblems"]
    right.boxplot(shares, showfliers=False, widths=0.6, medianprops={"color": NEGATIVE, "lw": 2})
    right.set_xticks(range(1, 5), labels, fontsize=8.5)
    right.set(ylabel="share of what moves a state's entropy", ylim=(0, 1))
    right.grid(axis="x", visible=False)
    return figure


def ledgers(table: pd.DataFrame, titles: dict[str, str]) -> Figure:
    """Cumulated measured and predicted changes along runs, one panel an arm, one line a seed."""
    figure, panels = plt.subplots(1, len(titles), figsize=(WIDTH, 3.2), sharey=True)
    lines = (("measured", "black", "-"), ("parameters", POSITIVE, "-"), ("logits", NEGATIVE, "--"))
    names = ("measured", "first order, parameters", "Theorem 3.3, one factor")
    for panel, (arm, title) in zip(panels, titles.items()):
        for number, (_, run) in enumerate(table[table.arm == arm].groupby("seed")):
            for (column, colour, style), name in zip(lines, names):
                panel.plot(run.step, run[column], style, color=colour, lw=1.3, label=None if number else name)
        panel.set(xlabel="batch")
        panel.set_title(title, fontsize=9)
    panels[0].set_ylabel("cumulated change of mean\nentropy on the batch (nats)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    return figure
