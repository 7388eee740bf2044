"""What holds for every recipe: colours from one table, legends that cover nothing, text that a phone shows."""

import ast
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.colors import is_color_like

from companion import figures
from companion.figures import fair_figures, real_figures, style, theory_figures

RECIPES = sorted(Path(figures.__file__).parent.glob("*_figures.py"))


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def literal_colours(source):
    """Colours and colour maps written as strings, but for "none"; single letters only in an argument for a colour."""
    tree = ast.parse(source)
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    found = [text for text in texts if len(text) > 1 and text != "none" and is_color_like(text)]
    found += [text for text in texts if text in colormaps]
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg and (node.arg == "c" or "color" in node.arg):
            found += [n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant) and len(str(n.value)) == 1]
    return found


def test_literal_colours_are_found():
    for text in ("f(color='#0173b2')", "f(x, '0.9')", "f('black')", "f(c='k')", "f(cmap='viridis')", "f(ecolor='b')"):
        assert literal_colours(text), text
    assert not literal_colours("f(color=shade, mfc='none', axis='y', marker='o')")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_take_their_colours_and_legends_from_the_style(path):
    source = path.read_text(encoding="utf-8")
    assert not literal_colours(source)
    assert ".legend(" not in source  # style.legend puts it below, where it covers nothing
    assert "color_palette" not in source
    assert "fontsize" not in source.replace("fontsize=9)", "").replace("fontsize=8,", "")


def bands(quantities, arms):
    return pd.DataFrame(
        [
            {"quantity": quantity, "arm": arm, "step": step, "mean": 1.0, "low": 0.9, "high": 1.1}
            for quantity in quantities
            for arm in arms
            for step in (0, 1)
        ]
    )


def line_colours(figure):
    return {line.get_label(): line.get_color() for axes in figure.axes for line in axes.lines}


def test_chosen_settings_are_ringed_and_no_others():
    rows = [
        {"size": 3, "family": f, "arm": a, "avg": x, "pass": -x}
        for f, a, x in (("Clip_B", "Clip_B", 0.1), ("Clip_B", "Clip_B 2", 0.2))
    ]
    limits = {f"{name}_{end}": x for name in ("avg", "pass") for end, x in (("low", -1.0), ("high", 1.0))}
    points = pd.DataFrame(rows).assign(**limits)
    titles = {3: "three", 4: "four"}
    figure = fair_figures.frontier(points, lines=["Clip_B"], titles=titles, chosen=["Clip_B"])
    (rings,) = [line for line in figure.axes[0].lines if line.get_label() == "chosen"]
    assert rings.get_xydata().tolist() == [[0.1, -0.1]]


def test_a_control_is_dashed_in_the_colour_of_its_method():
    runs = bands(["entropy", "reward", "masked_negative"], ["Clip_B", "random mask"]).assign(task="sums")
    figure = real_figures.real_runs(runs, {"Clip_B": "random mask"})
    styles = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert styles == {"Clip_B": (style.colour("Clip_B"), "-"), "random mask": (style.colour("Clip_B"), "--")}


def test_a_method_has_its_colour_in_every_figure_of_methods():
    arms = ["GRPO", "Clip_B 2.0", "Clip_V 3.0", "random mask"]
    drawn = [fair_figures.trajectories(bands(["entropy", "reward"], arms), {"entropy": "H", "reward": "r"})]
    runs = bands(["entropy", "reward", "masked_negative"], arms).assign(task="sums")
    drawn.append(real_figures.real_runs(runs, {}))
    curves = pd.DataFrame(
        [{"size": 3, "arm": a, "k": k, "mean": 0.5, "low": 0.4, "high": 0.6} for a in arms for k in (1, 2)]
    )
    drawn.append(fair_figures.pass_curves(curves, {3: "three numbers"}))
    for figure in drawn:
        found = line_colours(figure)
        assert {arm: found[arm] for arm in arms} == {arm: style.colour(arm) for arm in arms}


def test_the_legend_stands_below_all_panels():
    figure = fair_figures.trajectories(bands(["entropy"], ["GRPO", "Clip_B"]), {"entropy": "H", "other": "x"})
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["GRPO", "Clip_B"]
    for axes in figure.axes:
        assert not legend.overlaps(axes.get_tightbbox())


def test_what_a_reader_would_miss_is_complained_about():
    figure, axes = plt.subplots(figsize=(style.WIDTH, 2))
    axes.loglog([1, 10], [1, 10], label="line")
    axes.set(title="large", xlabel="size (log)")
    style.legend(figure)
    assert style.complaints(figure) == []

    axes.set_ylabel("time")
    axes.text(1, 1, "small", fontsize=7)
    axes.legend()
    small, bent, covering = style.complaints(figure)
    assert f"'small' is {7 / 72 * 330 / style.WIDTH:.1f} pixels high" in small  # points, inches, pixels
    assert bent == "the axis 'time' does not say that it is log"
    assert "the legend of 'line' covers part of a panel" in covering


def test_exact_zeros_are_hollow_and_named():
    table = pd.DataFrame(
        {
            "sampler": ["on policy", "stale"] * 2,
            "source": ["random"] * 2 + ["real"] * 2,
            "bias": [1e-17, -0.03, -2e-16, -0.02],
        }
    )
    figure = theory_figures.sampler_biases(table)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["on policy (0)", "stale"]
    hollow = [line for line in axes.lines if line.get_marker() == "o" and line.get_markerfacecolor() == "none"]
    assert sorted(float(x) for line in hollow for x in line.get_xdata()) == [-2e-16, 1e-17]
    assert axes.get_xscale() == "linear"
