"""The look of every figure."""

import seaborn

WIDTH = 7.0  # inches of text width; a figure is WIDTH wide, and as high as it needs
POSITIVE, NEGATIVE, NEUTRAL, ACCENT = "#0173b2", "#d55e00", "#5b5b5b", "#029e73"  # seaborn's colourblind palette


seaborn.set_theme(
    context="paper",
    style="whitegrid",
    palette="colorblind",
    font_scale=1.1,
    rc={"figure.dpi": 100, "savefig.dpi": 150, "figure.constrained_layout.use": True, "pdf.fonttype": 42},
)
