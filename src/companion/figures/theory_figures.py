"""The figures of notebooks 00 to 03: each function draws one table and returns the figure."""

from itertools import cycle

import mpltern  # noqa: F401  registers the ternary projection
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from companion.figures.style import (
    ACCENT,
    GREYS,
    GROUND,
    INK,
    NEGATIVE,
    NEUTRAL,
    PAPER,
    POSITIVE,
    SIGNED,
    WIDTH,
    legend,
    shades,
)

RARER, LIKELIER = "$p < e^{-H}$, so $S < 0$", "$p > e^{-H}$, so $S > 0$"
KINDS = (RARER, "band, $0 < S < E_p[S]$", "$S > E_p[S]$")  # the groups of sampled tokens
SOURCES = (NEUTRAL, ACCENT)  # random policies, a language model


def answer_plane(plane: pd.DataFrame) -> Figure:
    """-S over probability and entropy, with the boundary p = e^{-H}."""
    grid = plane.pivot(index="entropy", columns="p", values="s")
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    scale = TwoSlopeNorm(0, -1.5, 0.225)  # rises are small: they get a scale of their own
    axes.set_facecolor(GROUND)
    image = axes.pcolormesh(grid.columns, grid.index, -grid, cmap=SIGNED, norm=scale, rasterized=True)
    h = np.linspace(0.01, grid.index.max(), 200)
    axes.plot(np.exp(-h), h, color=INK, lw=1.8)
    axes.text(2.2e-4, 8.9, "$p = e^{-H}$")
    axes.text(0.025, 6.9, "likelier than $e^{-H}$:\na push lowers entropy", ha="center")
    axes.text(1.2e-3, 1.8, "rarer than $e^{-H}$:\na push raises entropy", ha="center")
    axes.set(
        xscale="log",
        xlabel="probability $p$ of the pushed token (log)",
        ylabel="entropy $H$ of the state (nats)",
    )
    axes.set_xlim(1e-4, 1)
    ticks = [-1.5, -1, -0.5, 0, 0.1, 0.2]
    figure.colorbar(
        image, label="$-S$, entropy change per unit\nof logit (nats), two scales", extend="min", ticks=ticks
    )
    return figure


def simplex(field: pd.DataFrame) -> Figure:
    """Left: -S_1 with its sign boundary. Right: the motion of p under the field -S, on entropy contours."""
    figure = plt.figure(figsize=(WIDTH, 3.4))
    corners = field.p1, field.p2, field.p3
    left = figure.add_subplot(1, 2, 1, projection="ternary")
    limit = field.s1.abs().max()
    shaded = left.tricontourf(*corners, -field.s1, levels=np.linspace(-limit, limit, 31), cmap=SIGNED)
    left.tricontour(*corners, field.s1, levels=[0], colors=INK, linewidths=1.6)
    left.set_title("$-S_1$; line: $p_1 = e^{-H}$", pad=22)
    options = {"orientation": "horizontal", "shrink": 0.85}
    figure.colorbar(
        shaded, ax=left, label="entropy change per unit\nof logit 1 (nats)", ticks=[-0.5, -0.25, 0, 0.25], **options
    )
    right = figure.add_subplot(1, 2, 2, projection="ternary")
    shaded = right.tricontourf(*corners, field.entropy, levels=12, cmap=GREYS, alpha=0.8)
    for number, colour in zip((1, 2, 3), (POSITIVE, NEGATIVE, ACCENT)):
        right.tricontour(*corners, field[f"s{number}"], levels=[0], colors=colour, linewidths=1.6)
        right.plot([], [], [], color=colour, lw=1.6, label=f"$p_{number} = e^{{-H}}$")
    edge = round(1 / field.p1.min())
    coarse = field[((edge * field[["p1", "p2"]]).round() % 5 == 2).all(axis=1)]  # every fifth point along p1 and p2
    right.quiver(*(coarse[name] for name in ("p1", "p2", "p3", "flow1", "flow2", "flow3")), color=INK, width=0.007)
    right.set_title("motion of $p$ under $-S$", pad=22)
    figure.colorbar(shaded, ax=right, label="entropy (nats)\n", ticks=[0.2, 0.5, 0.8, 1.1], **options)
    for axes in (left, right):
        for axis, number in ((axes.taxis, 1), (axes.laxis, 2), (axes.raxis, 3)):
            axis.set_label_text(f"$p_{number}$")
            axis.set_label_rotation_mode("horizontal")
            axis.set_ticks([])
        axes.grid(False)
    legend(figure)
    return figure


def curves(table: pd.DataFrame) -> Figure:
    """S against p at several entropies; unattainable parts thin and dotted, minima marked."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
    entropies = sorted(table.entropy.unique())
    for h, colour in zip(entropies, shades(len(entropies))):
        group = table[table.entropy == h]
        axes.plot(group.p, group.s, color=colour, lw=0.9, ls=":")
        axes.plot(group.p, group.s.where(group.attainable), color=colour, lw=2, label=f"$H$ = {h:g}")
        lowest = np.exp(-1 - h)
        reached = group.attainable[(group.p - lowest).abs().idxmin()]
        axes.plot(lowest, -lowest, "o", color=colour, ms=5, mfc=colour if reached else PAPER)
        axes.plot(np.exp(-h), 0, "|", color=colour, ms=12, mew=2)
    axes.axhline(0, color=INK, lw=0.8)
    axes.set(xlabel="probability $p$ of the token", ylabel="discriminator $S$ (nats)", ylim=(-0.4, 1.6))
    legend(figure, columns=5, handlelength=1.0, columnspacing=0.9)
    return figure


def remainders(table: pd.DataFrame, symbol: str) -> Figure:
    """What each order leaves unexplained, against the step, one line per vocabulary size."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.9), sharey=True)
    sizes = sorted(table.vocabulary.unique())
    looks = list(zip(sizes, shades(len(sizes)), cycle("osD^")))
    panels = ("first_order", 2, "after the first order"), ("second_order", 3, "after the second order")
    for panel, (column, slope, title) in zip(axes, panels):
        for number, (size, colour, marker) in enumerate(looks):
            group = table[table.vocabulary == size]
            hollow = {"mfc": "none", "ms": 8 - 1.5 * number, "lw": 1}  # lines that coincide show as nested markers
            panel.loglog(group.step, group[column], marker=marker, color=colour, label=f"$V$ = {size:,}", **hollow)
        steps = np.array([table.step.min(), table.step.max()])
        panel.loglog(steps, table[column].max() * (steps / steps[1]) ** slope * 2, "--", color=NEUTRAL)
        panel.set(title=f"{title},\ndashed: slope {slope}", xlabel=f"step ${symbol}$ (log)")
    axes[0].set_ylabel("RMS remainder (nats, log)")
    legend(figure, columns=2)
    return figure


def predictions(table: pd.DataFrame, agreements: pd.DataFrame, symbol: str) -> Figure:
    """Exact against first-order predicted entropy change, both per unit of step, one panel per step."""
    steps = sorted(table.step.unique())
    first_order = agreements[agreements.prediction == "first order"].set_index("step")
    figure, panels = plt.subplots(1, len(steps), figsize=(WIDTH, 2.4), squeeze=False, sharex=True, sharey=True)
    ends = [table.first_order.div(table.step).min(), table.first_order.div(table.step).max()]
    for panel, step in zip(panels[0], steps):
        group = table[table.step == step]
        panel.plot(ends, ends, color=INK, lw=0.8)
        panel.scatter(
            group.first_order / step, group.exact / step, s=5, alpha=0.35, color=POSITIVE, lw=0, rasterized=True
        )
        row = first_order.loc[step]
        panel.set_title(f"${symbol} = {step:g}$\n$R^2 = {row.r_squared:.4f}$\nsign {row.sign_agreement:.1%}")
        panel.locator_params(nbins=3)
    figure.supxlabel(f"predicted $\\Delta H / {symbol}$ (nats)", fontsize=9)
    panels[0][0].set_ylabel(f"exact $\\Delta H / {symbol}$ (nats)")
    return figure


def token_plane(tokens: pd.DataFrame) -> Figure:
    """Sampled tokens in the plane of p against e^{-H}, coloured by `kind`."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.3))
    colours = dict(zip(KINDS, (POSITIVE, ACCENT, NEGATIVE))) | {LIKELIER: NEGATIVE}
    for kind in [kind for kind in colours if kind in set(tokens.kind)]:
        group = tokens[tokens.kind == kind]
        label = f"{len(group) / len(tokens):.0%}  {kind}"
        look = {"s": 7, "alpha": 0.5, "color": colours[kind], "linewidths": 0}
        axes.scatter(group.boundary, group.probability, label=label, rasterized=True, **look)
    ends = np.array([tokens.boundary.min(), 1])
    axes.plot(ends, ends, color=INK, lw=1.2, label="$p = e^{-H}$")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="$e^{-H}$ of the state (log)",
        ylabel="probability $p$ of the sampled token (log)",
    )
    legend(figure, columns=2, markerscale=2.5)
    return figure


def disagreement_mass(states: pd.DataFrame) -> Figure:
    """Probability mass with 0 < S < E_p[S] in each state, against its entropy, one panel a source; dashed: its mean."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 2.7), sharex=True, sharey=True)
    for panel, (source, group), colour in zip(panels, states.groupby("source", sort=False), SOURCES, strict=True):
        panel.scatter(group.entropy, group.mass, s=6, alpha=0.4, color=colour, linewidths=0, rasterized=True)
        panel.axhline(group.mass.mean(), color=INK, lw=1.2, ls="--")
        panel.set_title(f"{source.replace(', ', ',' + chr(10))}\nmean {group.mass.mean():.1%}")
        panel.set(xlabel="entropy $H$ (nats)", ylim=(-0.02, None))
    panels[0].set_ylabel("probability mass in the band")
    return figure


def sampling(means: pd.DataFrame) -> Figure:
    """RMS over batches of the mean of D, and the mean of S, against the number of tokens."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    axes.loglog(means["size"], means.mean_discriminator, "s-", color=NEGATIVE, label="mean of $S_*$")
    axes.loglog(means["size"], means.rms_centred, "o", color=POSITIVE, label="mean of $D$ (RMS over batches)")
    axes.loglog(means["size"], means.standard_error, "--", color=INK, label="standard error of the mean of $D$")
    axes.set(xlabel="tokens in the batch (log)", ylabel="nats (log)")
    legend(figure, columns=2)
    return figure


def sampler_biases(biases: pd.DataFrame) -> Figure:
    """Mean of E_q[D] over states for each sampler and repair, by source; hollow: zero up to rounding."""
    rows = list(dict.fromkeys(biases.sampler))
    figure, axes = plt.subplots(figsize=(WIDTH, 0.25 * len(rows) + 1.1))
    for (source, group), colour, offset in zip(biases.groupby("source", sort=False), SOURCES, (-0.15, 0.15)):
        places = np.array([rows.index(name) + offset for name in group.sampler])
        zero = group.bias.abs().to_numpy() < 1e-12
        axes.plot(group.bias[zero], places[zero], "o", color=colour, ms=6, mfc="none")
        axes.plot(group.bias[~zero], places[~zero], "o", color=colour, ms=6, label=source)
    exact = biases.bias.abs().groupby(biases.sampler).max() < 1e-12
    names = [f"{name} (0)" if exact[name] else name for name in rows]
    axes.axvline(0, color=INK, lw=0.8)
    axes.locator_params(axis="x", nbins=5)
    axes.set(
        xlabel="mean of $E_q[D]$ over states (nats);\nhollow, (0): zero up to rounding",
        yticks=range(len(rows)),
        yticklabels=names,
    )
    axes.margins(x=0.1)
    axes.invert_yaxis()
    legend(figure, columns=2)
    return figure


def length_bias(biases: pd.DataFrame) -> Figure:
    """Exact expectation of the batch mean of D against the number of responses, for the two ways to average."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0))
    axes.loglog(biases.responses, biases.sequences.abs(), "s-", color=NEGATIVE, label="mean of the responses' means")
    axes.loglog(biases.responses, biases.tokens.abs(), "o-", color=POSITIVE, label="mean over all tokens")
    guide = biases.tokens.abs().iloc[-1] * biases.responses.iloc[-1] / biases.responses
    axes.loglog(biases.responses, guide, "--", color=NEUTRAL, label="slope -1")
    axes.set(xlabel="responses in the batch (log)", ylabel="absolute expectation (nats, log)")
    legend(figure, columns=2)
    return figure


def collapse_speed(rates: pd.DataFrame, sizes: pd.DataFrame) -> Figure:
    """Speed of collapse by variant: against the rate of right responses, and against the size of the group."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.2), sharey=True)
    styles = zip((NEUTRAL, INK, POSITIVE, ACCENT, NEGATIVE), ("--", ":", "-", "-.", "-"))
    colours = dict(zip(dict.fromkeys(rates.variant), styles))
    for panel, table, x in ((left, rates, "rate"), (right, sizes, "size")):
        for name, (colour, style) in colours.items():
            group = table[table.variant == name]
            panel.plot(group[x], group.speed, color=colour, ls=style, lw=2, label=name)
        panel.set_ylim(0, None)
    left.set(xlabel="rate $q$ of right responses", ylabel="speed (per unit of $\\eta$ and gap)")
    left.set_title(f"groups of {rates['size'].iloc[0]}")
    right.set(xscale="log", xlabel="group size $G$ (log)", xticks=sorted(sizes["size"].unique()))
    right.set_xticks([], minor=True)
    right.set_xticklabels([f"{size:g}" for size in sorted(sizes["size"].unique())])
    right.set_title(f"$q = {sizes.rate.iloc[0]:g}$")
    legend(figure, columns=2)
    return figure
