import json

import pandas as pd
import pytest
from matplotlib import pyplot as plt

from companion.figures import theory_figures
from companion.mathematics import landscapes
from companion.notebooks.figures import save_figure


def draw():
    figure, axes = plt.subplots()
    axes.plot([1, 2], [3, 4])
    return figure


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


def test_a_figure_without_alt_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'line' needs a title and an alt text"):
        save_figure(draw(), "line", pd.DataFrame(), title="A line.", alt="", directory=tmp_path / "a")
    plt.close("all")
    assert not (tmp_path / "a").exists()


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
