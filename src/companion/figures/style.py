"""The look of every figure: sizes, and every colour that a recipe may use."""

import numpy as np
import seaborn
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

WIDTH = 4.8  # inches; narrow, so that its text can be read when a phone shows the figure 330 pixels wide
PHONE = 330  # pixels
LEAST_TEXT = 7.0  # pixels of font size on a phone

INK, PAPER, GROUND = "#000000", "#ffffff", "#ececec"
NEUTRAL, PALE, FAINT = "#5b5b5b", "#a7b0b2", "#cfcfcf"  # FAINT: what need not be told apart
POSITIVE, NEGATIVE, ACCENT = "#3366f2", "#f95b02", "#4ca169"
SKY, VIOLET, AMBER, PURPLE = "#32a9fd", "#ac59a6", "#f5a811", "#5e178e"
# One colour a method in all figures; whoever is not here is grey.
COLOURS = {
    "start": INK,
    "GRPO": NEUTRAL,
    "random mask": PALE,
    "Clip_B": POSITIVE,
    "Clip_V": ACCENT,
    "entropy bonus": SKY,
    "average with the start": NEGATIVE,
    "earlier checkpoint": VIOLET,
    "lower rate": AMBER,
    "rarest mask": PURPLE,
}
SIGNED = "RdBu"  # red: entropy falls, blue: entropy rises
ORDERED, GREYS = "viridis", "Greys_r"


def colour(name: str) -> str:
    """Of a method, also with its strength or setting behind its name."""
    found = [known for known in COLOURS if name.startswith(known)]
    return COLOURS[max(found, key=len)] if found else NEUTRAL


def shades(count: int) -> list:
    """Colours, from dark to light, of `count` things that have an order."""
    return list(colormaps[ORDERED](np.linspace(0, 0.82, count)))


def legend(drawn: Figure | Axes, *, columns: int = 3, **options) -> None:
    """One legend of all that has a label, below the figure or the panel, where it covers nothing."""
    panels = drawn.axes if isinstance(drawn, Figure) else [drawn]
    found = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    place = (
        {"loc": "outside lower center"}
        if isinstance(drawn, Figure)
        else {"loc": "upper center", "bbox_to_anchor": (0.5, -0.3)}
    )
    drawn.legend(list(found.values()), list(found), ncols=columns, frameon=False, **place, **options)


def complaints(figure: Figure) -> list[str]:
    """What a reader of `figure` would miss: small text, axes that hide their scale, a legend that covers a panel."""
    figure.draw_without_rendering()
    found = []
    for text in figure.findobj(Text):
        size = text.get_fontsize() * PHONE / (72 * figure.get_figwidth())
        if text.get_text() and size < LEAST_TEXT:
            wish = f"a phone shows the figure {PHONE} pixels wide, and text should be {LEAST_TEXT:g} high there"
            found.append(f"{text.get_text()!r} is {size:.1f} pixels high; {wish}")
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        label, scale = axis.get_label_text(), axis.get_scale()
        if scale in ("log", "symlog") and label and scale not in label:
            found.append(f"the axis {label!r} does not say that it is {scale}")
    for legend in figure.findobj(Legend):
        if any(legend.get_window_extent().overlaps(axes.bbox) for axes in figure.axes):
            found.append(f"the legend of {legend.get_texts()[0].get_text()!r} covers part of a panel; use style.legend")
    return found


seaborn.set_theme(
    context="paper",
    style="whitegrid",
    palette=[POSITIVE, NEGATIVE, ACCENT, SKY, VIOLET, AMBER],
    rc={
        "figure.dpi": 100,
        "savefig.dpi": 220,
        "figure.constrained_layout.use": True,
        "pdf.fonttype": 42,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.fontsize": 8.5,
        "legend.title_fontsize": 8.5,
        "font.size": 9,
        "grid.color": "#dddddd",
        "lines.markersize": 4,
    },
)
