"""The look of every figure."""

import seaborn

WIDTH = 7.0  # inches of text width; a figure is WIDTH wide, and as high as it needs
POSITIVE, NEGATIVE, NEUTRAL, ACCENT = "#0173b2", "#d55e00", "#5b5b5b", "#029e73"  # seaborn's colourblind palette
# One colour a method in all figures; whoever is not here is grey.
COLOURS = {
    "start": "black",
    "GRPO": NEUTRAL,
    "Clip_B": POSITIVE,
    "Clip_V": ACCENT,
    "entropy bonus": "#56b4e9",
    "average with the start": NEGATIVE,
    "earlier checkpoint": "#cc78bc",
    "lower rate": "#ca9161",
    "temperature": "#ece133",
}


def colour(name: str) -> str:
    """Of a method, also with its strength or setting behind its name."""
    found = [known for known in COLOURS if name.startswith(known)]
    return COLOURS[max(found, key=len)] if found else NEUTRAL


seaborn.set_theme(
    context="paper",
    style="whitegrid",
    palette="colorblind",
    font_scale=1.1,
    rc={"figure.dpi": 100, "savefig.dpi": 150, "figure.constrained_layout.use": True, "pdf.fonttype": 42},
)
