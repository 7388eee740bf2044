"""How a figure is saved and shown: PNG, PDF, the CSV behind it, and its caption and alt text."""

import base64
import html
import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from PIL import Image

from companion.figures import style

SHOWN = 125  # pixels an inch, in a notebook


def save_figure(figure: Figure, name: str, data: pd.DataFrame, *, title: str, alt: str, directory: str | Path) -> None:
    """Write NAME.png, NAME.pdf, NAME.csv and NAME.json to `directory` and show the picture with its caption.

    The caption is an anchor, #figure-NAME, and links to the CSV where `make figures` writes it, seen from notebooks/.

    Args:
        figure: is closed afterwards.
        name: file stem, lower case with underscores; the notebook cell carries the tag figure:NAME.
        data: exactly what is drawn.
        title: what the figure shows, one sentence; becomes the caption.
        alt: the same for someone who cannot see it: axes, shapes and the conclusion.
        directory: created if missing.

    Raises:
        ValueError: the title or the alt text is missing, or `style.complaints` finds fault with the figure.
    """
    if not alt or not title:
        raise ValueError(f"figure {name!r} needs a title and an alt text")
    if faults := style.complaints(figure):
        raise ValueError(f"figure {name!r}: " + "; ".join(faults))
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    picture = _png(figure)
    (folder / f"{name}.png").write_bytes(picture)
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    plt.close(figure)
    data.to_csv(folder / f"{name}.csv", index=False, float_format="%.10g", encoding="utf-8")
    record = {"name": name, "title": title, "alt": alt, "caption": f"{title} {alt}"}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _show(picture, name, alt, width=round(figure.get_figwidth() * SHOWN))
    anchor = f'<a id="figure-{name}"></a>**[Figure `{name}`](#figure-{name}).**'
    display(Markdown(f"{anchor} {title} Data: [{name}.csv](../build/figures/{name}.csv), of `make figures`."))


def _png(figure: Figure) -> bytes:
    """The figure with 256 colours, which are enough and a third of the size, and no trace of when it was made."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", metadata={"Software": None})
    picture = Image.open(full).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()


def _show(picture: bytes, name: str, alt: str, *, width: int) -> None:
    """Display a PNG, as HTML as well: JupyterLab and nbconvert give only the latter its alt text."""
    code = base64.b64encode(picture).decode()
    image = f'<img src="data:image/png;base64,{code}" width="{width}" alt="{html.escape(alt)}">'
    metadata = {"image/png": {"width": width, "alt": alt}}
    display({"image/png": code, "text/html": image, "text/plain": f"figure {name}"}, raw=True, metadata=metadata)
