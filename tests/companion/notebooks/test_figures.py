import json

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib import pyplot as plt
from nbconvert import HTMLExporter

from companion.figures import style, theory_figures
from companion.mathematics import landscapes
from companion.notebooks import figures
from companion.notebooks.figures import save_figure

ALT = 'It rises, "steeply" & at once: y > x.'


def draw():
    figure, axes = plt.subplots(figsize=(style.WIDTH, 3))
    axes.plot([1, 2], [3, 4])
    return figure


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """What a notebook shows of a saved figure: the outputs of its cell."""

    def save(**options):
        outputs = []

        def display(thing, raw=False, metadata=None):
            data = thing if raw else {"text/markdown": thing.data}
            outputs.append(nbformat.v4.new_output("display_data", data, metadata=metadata or {}))

        monkeypatch.setattr(figures, "display", display)
        options = {"title": "A line.", "alt": ALT, "directory": tmp_path / "a"} | options
        figures.save_figure(draw(), "line", pd.DataFrame({"x": [1]}), **options)
        return outputs

    return save


def test_a_saved_figure_has_its_four_files_and_repeats_bit_for_bit(tmp_path, capsys):
    table = pd.DataFrame({"x": [1 / 3, 2], "y": [3, 4]})
    for folder in ("a", "b"):
        save_figure(draw(), "line", table, title="A line.", alt="It rises.", directory=tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["line.csv", "line.json", "line.pdf", "line.png"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "line.csv").read_text() == "x,y\n0.3333333333,3\n2,4\n"
    assert json.loads((tmp_path / "a" / "line.json").read_text())["alt"] == "It rises."
    assert not plt.get_fignums()


def test_a_figure_without_alt_text_is_refused(tmp_path, saved):
    with pytest.raises(ValueError, match="'line' needs a title and an alt text"):
        saved(alt="")
    plt.close("all")
    assert not (tmp_path / "a").exists()


def test_a_figure_that_a_phone_cannot_show_is_refused(tmp_path):
    figure = draw()
    figure.set_figwidth(2 * style.WIDTH)
    with pytest.raises(ValueError, match=r"figure 'line': .* pixels high"):
        save_figure(figure, "line", pd.DataFrame(), title="A line.", alt=ALT, directory=tmp_path / "a")
    plt.close("all")
    assert not (tmp_path / "a").exists()


def test_the_alt_text_reaches_exported_html(saved):
    cell = nbformat.v4.new_code_cell("save_figure(...)", outputs=saved())
    for template in ("lab", "classic"):
        page, _ = HTMLExporter(template_name=template).from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
        (image,) = BeautifulSoup(page, "html.parser").select("img")
        assert image["alt"] == ALT
        assert image["src"].startswith("data:image/png;base64,")


def test_what_is_shown_has_the_picture_for_programs_that_know_no_html(saved):
    picture, _ = saved()
    assert picture.metadata["image/png"]["alt"] == ALT
    assert picture.data["image/png"] in picture.data["text/html"]


def test_the_caption_is_an_anchor_and_leads_to_the_data(tmp_path, saved):
    _, caption = saved()
    text = caption.data["text/markdown"]
    assert '<a id="figure-line"></a>' in text and "](#figure-line)" in text
    assert "[line.csv](../build/figures/line.csv)" in text
    assert "A line." in text and str(tmp_path) not in text


def test_figures_draw_what_their_table_holds():
    plane = landscapes.discriminator_plane(100, points=20)
    figure = theory_figures.answer_plane(plane)
    mesh = figure.axes[0].collections[0]
    assert mesh.get_array().compressed().min() == pytest.approx(-plane.s.max())
    plt.close(figure)
    biases = pd.DataFrame({"responses": [1, 2, 4], "tokens": [0.4, 0.2, 0.1], "sequences": [-0.4, -0.4, -0.4]})
    figure = theory_figures.length_bias(biases)
    drawn = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert drawn["mean over all tokens"] == [0.4, 0.2, 0.1]
    assert drawn["mean of the responses' means"] == [0.4, 0.4, 0.4]
    plt.close(figure)
