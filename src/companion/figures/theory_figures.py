"""The figures of notebooks 00 to 03: each function draws one table and returns the figure."""

import mpltern  # noqa: F401  registers the ternary projection
import numpy as np
import pandas as pd
import seaborn
from matplotlib import pyplot as plt
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from companion.figures.style import ACCENT, NEGATIVE, NEUTRAL, POSITIVE, WIDTH

FALLS_RISES = "RdBu"  # red: entropy falls, blue: entropy rises
RARER, LIKELIER = "$p < e^{-H}$, so $S < 0$", "$p > e^{-H}$, so $S > 0$"
KINDS = (RARER, "band, $0 < S < E_p[S]$", "$S > E_p[S]$")  # the groups of sampled tokens
BOUNDARY = {"colors": "black", "linewidths": 1.6}


def answer_plane(plane: pd.DataFrame) -> Figure:
    """-S over probability and entropy, with the boundary p = e^{-H}."""
    grid = plane.pivot(index="entropy", columns="p", values="s")
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2))
    scale = TwoSlopeNorm(0, -1.5, 0.225)  # rises are small: they get a scale of their own
    axes.set_facecolor("0.9")
    image = axes.pcolormesh(grid.columns, grid.index, -grid, cmap=FALLS_RISES, norm=scale, rasterized=True)
    h = np.linspace(0.01, grid.index.max(), 200)
    axes.plot(np.exp(-h), h, color="black", lw=1.8)
    axes.text(2.2e-4, 8.9, "$p = e^{-H}$", fontsize=12)
    axes.text(0.012, 6.6, "likelier than $e^{-H}$:\na push lowers entropy", ha="center", fontsize=10)
    axes.text(1.2e-3, 1.8, "rarer than $e^{-H}$:\na push raises entropy", ha="center", fontsize=10)
    axes.set(
        xscale="log",
        xlabel="probability $p$ of the token whose logit is pushed",
        ylabel="entropy $H$ of the state (nats)",
    )
    axes.set_xlim(1e-4, 1)
    ticks = [-1.5, -1, -0.5, 0, 0.1, 0.2]
    figure.colorbar(image, label="entropy change per unit of logit, $-S$ (nats)", extend="min", ticks=ticks)
    return figure


def simplex(field: pd.DataFrame) -> Figure:
    """Left: -S_1 with its sign boundary. Right: the motion of p under the field -S, on entropy contours."""
    figure = plt.figure(figsize=(WIDTH, 3.9))
    corners = field.p1, field.p2, field.p3
    left = figure.add_subplot(1, 2, 1, projection="ternary")
    limit = field.s1.abs().max()
    shades = left.tricontourf(*corners, -field.s1, levels=np.linspace(-limit, limit, 31), cmap=FALLS_RISES)
    left.tricontour(*corners, field.s1, levels=[0], **BOUNDARY)
    left.set_title("entropy change per unit of logit 1, $-S_1$\n(line: $p_1 = e^{-H}$)", fontsize=10, pad=26)
    figure.colorbar(
        shades, ax=left, orientation="horizontal", shrink=0.8, label="nats", ticks=[-0.5, -0.25, 0, 0.25, 0.5]
    )
    right = figure.add_subplot(1, 2, 2, projection="ternary")
    shades = right.tricontourf(*corners, field.entropy, levels=12, cmap="Greys_r", alpha=0.8)
    for token, colour in zip(("s1", "s2", "s3"), (POSITIVE, NEGATIVE, ACCENT)):
        right.tricontour(*corners, field[token], levels=[0], colors=colour, linewidths=1.6)
    edge = round(1 / field.p1.min())
    coarse = field[((edge * field[["p1", "p2"]]).round() % 5 == 2).all(axis=1)]  # every fifth point along p1 and p2
    right.quiver(*(coarse[name] for name in ("p1", "p2", "p3", "flow1", "flow2", "flow3")), color="black", width=0.007)
    right.set_title("motion of $p$ under the field $-S$\n(lines: $p_i = e^{-H}$, one per token)", fontsize=10, pad=26)
    figure.colorbar(
        shades, ax=right, orientation="horizontal", shrink=0.8, label="entropy (nats)", ticks=[0.2, 0.5, 0.8, 1.1]
    )
    for axes in (left, right):
        axes.set_tlabel("$p_1$")
        axes.set_llabel("$p_2$")
        axes.set_rlabel("$p_3$")
        for axis in (axes.taxis, axes.laxis, axes.raxis):
            axis.set_ticks([0.2, 0.4, 0.6, 0.8])
        axes.tick_params(labelsize=7)
        axes.grid(False)
    return figure


def curves(table: pd.DataFrame) -> Figure:
    """S against p at several entropies; unattainable parts thin and dotted, minima marked."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    entropies = sorted(table.entropy.unique())
    for h, colour in zip(entropies, seaborn.color_palette("viridis", len(entropies))):
        group = table[table.entropy == h]
        axes.plot(group.p, group.s, color=colour, lw=0.9, ls=":")
        axes.plot(group.p, group.s.where(group.attainable), color=colour, lw=2, label=f"{h:g}")
        lowest = np.exp(-1 - h)
        reached = group.attainable[(group.p - lowest).abs().idxmin()]
        axes.plot(lowest, -lowest, "o", color=colour, ms=5, mfc=colour if reached else "white")
        axes.plot(np.exp(-h), 0, "|", color=colour, ms=12, mew=2)
    axes.axhline(0, color="black", lw=0.8)
    axes.set(xlabel="probability $p$ of the token", ylabel="discriminator $S$ (nats)", ylim=(-0.4, 1.6))
    axes.legend(title="entropy $H$ (nats)", ncols=2, loc="upper left")
    return figure


def remainders(table: pd.DataFrame, symbol: str) -> Figure:
    """What each order leaves unexplained, against the step, one line per vocabulary size."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.5), sharey=True)
    sizes = sorted(table.vocabulary.unique())
    panels = ("first_order", 2, "after the first order"), ("second_order", 3, "after the second order")
    for panel, (column, slope, title) in zip(axes, panels):
        for size, colour in zip(sizes, seaborn.color_palette("viridis", len(sizes))):
            group = table[table.vocabulary == size]
            panel.loglog(group.step, group[column], "o-", ms=4, color=colour, label=f"{size:,}")
        steps = np.array([table.step.min(), table.step.max()])
        panel.loglog(steps, table[column].max() * (steps / steps[1]) ** slope * 2, "--", color=NEUTRAL)
        panel.set(title=title, xlabel=f"step ${symbol}$")
        panel.text(0.05, 0.92, f"dashed: slope {slope}", transform=panel.transAxes, color=NEUTRAL)
    axes[0].set_ylabel("RMS remainder (nats)")
    axes[1].legend(title="vocabulary", loc="lower right", fontsize=8)
    return figure


def predictions(table: pd.DataFrame, agreements: pd.DataFrame, symbol: str) -> Figure:
    """Exact against first-order predicted entropy change, both per unit of step, one panel per step."""
    steps = sorted(table.step.unique())
    first_order = agreements[agreements.prediction == "first order"].set_index("step")
    figure, panels = plt.subplots(1, len(steps), figsize=(WIDTH, 3.0), squeeze=False, sharex=True, sharey=True)
    ends = [table.first_order.div(table.step).min(), table.first_order.div(table.step).max()]
    for panel, step in zip(panels[0], steps):
        group = table[table.step == step]
        panel.plot(ends, ends, color="black", lw=0.8)
        panel.scatter(
            group.first_order / step, group.exact / step, s=5, alpha=0.35, color=POSITIVE, lw=0, rasterized=True
        )
        row = first_order.loc[step]
        panel.set_title(
            f"${symbol} = {step:g}$\n$R^2 = {row.r_squared:.4f}$, sign {row.sign_agreement:.1%}", fontsize=10
        )
        panel.set_xlabel(f"predicted $\\Delta H / {symbol}$ (nats)")
    panels[0][0].set_ylabel(f"exact $\\Delta H / {symbol}$ (nats)")
    return figure


def token_plane(tokens: pd.DataFrame) -> Figure:
    """Sampled tokens in the plane of p against e^{-H}, coloured by `kind`."""
    figure, axes = plt.subplots(figsize=(WIDTH * 0.72, 4.4))
    colours = dict(zip(KINDS, (POSITIVE, ACCENT, NEGATIVE))) | {LIKELIER: NEGATIVE}
    for kind in [kind for kind in colours if kind in set(tokens.kind)]:
        group = tokens[tokens.kind == kind]
        label = f"{kind}: {len(group) / len(tokens):.0%}"
        axes.scatter(
            group.boundary,
            group.probability,
            s=7,
            alpha=0.5,
            color=colours[kind],
            linewidths=0,
            label=label,
            rasterized=True,
        )
    ends = np.array([tokens.boundary.min(), 1])
    axes.plot(ends, ends, color="black", lw=1.2)
    axes.set(xscale="log", yscale="log", xlabel="$e^{-H}$ of the state", ylabel="probability $p$ of the sampled token")
    figure.legend(loc="outside upper center", ncols=3, markerscale=2.5, fontsize=8)
    return figure


def disagreement_mass(states: pd.DataFrame) -> Figure:
    """Probability mass with 0 < S < E_p[S] in each state, against its entropy, by source."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.5))
    for (source, group), colour in zip(states.groupby("source", sort=False), (NEUTRAL, ACCENT)):
        label = f"{source}: mean {group.mass.mean():.1%}"
        axes.scatter(
            group.entropy, group.mass, s=6, alpha=0.4, color=colour, linewidths=0, label=label, rasterized=True
        )
        axes.axhline(group.mass.mean(), color=colour, lw=1.5, ls="--")
    axes.set(xlabel="entropy $H$ of the state (nats)", ylabel="probability mass in the band", ylim=(0, 1))
    axes.legend(loc="upper right", markerscale=2.5)
    return figure


def sampling(means: pd.DataFrame) -> Figure:
    """RMS over batches of the mean of D, and the mean of S, against the number of tokens."""
    figure, axes = plt.subplots(figsize=(WIDTH * 0.8, 3.5))
    axes.loglog(means["size"], means.mean_discriminator, "s-", color=NEGATIVE, label="mean of $S_*$")
    axes.loglog(means["size"], means.rms_centred, "o", color=POSITIVE, label="mean of $D$ (RMS over batches)")
    axes.loglog(means["size"], means.standard_error, "--", color="black", label="standard error of the mean of $D$")
    axes.set(xlabel="tokens in the batch", ylabel="nats")
    axes.legend()
    return figure


def sampler_biases(biases: pd.DataFrame) -> Figure:
    """|mean of E_q[D]| over states for each sampler and repair, by source; exact zeros sit at rounding level."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    rows = list(dict.fromkeys(biases.sampler))
    for (source, group), colour, offset in zip(biases.groupby("source", sort=False), (NEUTRAL, ACCENT), (-0.12, 0.12)):
        y = [rows.index(name) + offset for name in group.sampler]
        axes.plot(group.bias.abs().clip(lower=1e-19), y, "o", color=colour, ms=7, label=source)
    axes.set(
        xscale="log", xlabel="absolute mean of $E_q[D]$ over states (nats)", yticks=range(len(rows)), yticklabels=rows
    )
    axes.set_xlim(3e-20, 1)
    axes.axvspan(3e-20, 1e-14, color="0.92", zorder=0)
    ground = {"facecolor": "0.92", "edgecolor": "none", "pad": 1}  # hides the grid behind the words
    axes.text(1e-19, rows.index("stale"), "zero up to rounding", color=NEUTRAL, fontsize=9, va="center", bbox=ground)
    axes.invert_yaxis()
    axes.legend(loc="center left", bbox_to_anchor=(0.36, 0.5))
    return figure


def length_bias(biases: pd.DataFrame) -> Figure:
    """Exact expectation of the batch mean of D against the number of responses, for the two ways to average."""
    figure, axes = plt.subplots(figsize=(WIDTH * 0.8, 3.3))
    axes.loglog(biases.responses, biases.sequences.abs(), "s-", color=NEGATIVE, label="mean of the responses' means")
    axes.loglog(biases.responses, biases.tokens.abs(), "o-", color=POSITIVE, label="mean over all tokens")
    guide = biases.tokens.abs().iloc[-1] * biases.responses.iloc[-1] / biases.responses
    axes.loglog(biases.responses, guide, "--", color=NEUTRAL, label="slope -1")
    axes.set(xlabel="responses in the batch", ylabel="absolute expectation (nats)")
    axes.legend(loc="lower left")
    return figure


def collapse_speed(rates: pd.DataFrame, sizes: pd.DataFrame) -> Figure:
    """Speed of collapse by variant: against the rate of right responses, and against the size of the group."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.6), sharey=True)
    styles = zip((NEUTRAL, "black", POSITIVE, ACCENT, NEGATIVE), ("--", ":", "-", "-.", "-"))
    colours = dict(zip(dict.fromkeys(rates.variant), styles))
    for panel, table, x in ((left, rates, "rate"), (right, sizes, "size")):
        for name, (colour, style) in colours.items():
            group = table[table.variant == name]
            panel.plot(group[x], group.speed, color=colour, ls=style, lw=2, label=name)
        panel.set_ylim(0, None)
    left.set(xlabel="rate $q$ of right responses", ylabel="speed (per unit of $\\eta$ and gap)")
    left.set_title(f"groups of {rates['size'].iloc[0]}", fontsize=10)
    right.set(xscale="log", xlabel="group size $G$ (logarithmic)", xticks=sorted(sizes["size"].unique()))
    right.set_xticks([], minor=True)
    right.set_xticklabels([f"{size:g}" for size in sorted(sizes["size"].unique())])
    right.set_title(f"$q = {sizes.rate.iloc[0]:g}$", fontsize=10)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure
