"""How a figure is saved and shown: PNG, PDF, the CSV behind it, and its caption and alt text."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure


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
    data.to_csv(folder / f"{name}.csv", index=False, float_format="%.10g", encoding="utf-8")
    caption = f"**Figure `{name}`.** {title} *Alt text: {alt}*"
    record = {"name": name, "title": title, "alt": alt, "caption": f"{title} {alt}"}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    display(Image(data=(folder / f"{name}.png").read_bytes(), alt=alt, width=int(figure.get_figwidth() * 100)))
    display(Markdown(caption))
