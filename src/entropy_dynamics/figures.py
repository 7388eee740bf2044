"""The look of every figure, and how one is saved: PNG, PDF, the CSV behind it, and its caption and alt text."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure

WIDTH = 7.0  # inches of text width; a figure is WIDTH wide, and as high as it needs
POSITIVE, NEGATIVE, NEUTRAL, ACCENT = "#0173b2", "#d55e00", "#5b5b5b", "#029e73"  # seaborn's colourblind palette


seaborn.set_theme(
    context="paper",
    style="whitegrid",
    palette="colorblind",
    font_scale=1.1,
    rc={"figure.dpi": 100, "savefig.dpi": 150, "figure.constrained_layout.use": True, "pdf.fonttype": 42},
)


def save_figure(figure: Figure, name: str, data: pd.DataFrame, *, title: str, alt: str, directory: str | Path) -> None:
    """Write NAME.png, NAME.pdf, NAME.csv and NAME.json to `directory` and show the picture with its caption.

    Args:
        figure: is closed afterwards.
        name: file stem, lower case with underscores; the notebook cell carries the tag figure:NAME.
        data: exactly what is drawn.
        title: what the figure shows, one sentence; becomes the caption.
        alt: the same for someone who cannot see it: axes, shapes and the conclusion.
        directory: created if missing.
    """
    if not alt or not title:
        raise ValueError(f"figure {name!r} needs a title and an alt text")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", metadata={"Software": None})
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    plt.close(figure)
    data.to_csv(folder / f"{name}.csv", index=False, float_format="%.10g")
    caption = f"**Figure `{name}`.** {title} *Alt text: {alt}*"
    record = {"name": name, "title": title, "alt": alt, "caption": f"{title} {alt}"}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    display(Image(data=(folder / f"{name}.png").read_bytes(), alt=alt, width=int(figure.get_figwidth() * 100)))
    display(Markdown(caption))
