"""Hygiene of the committed notebooks: what nbval and papermill would let through."""

import re
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from companion.notebooks.claims import CLAIMS, verdicts

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def output_text(cell):
    return "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def test_there_are_notebooks_in_order():
    numbers = [int(path.stem[:2]) for path in PATHS]
    assert numbers[:4] == [0, 1, 2, 3] and len(set(numbers)) == len(numbers)


def test_every_notebook_is_linked_from_the_first_and_from_the_readme():
    first = "".join(cell.source for cell in nbformat.read(PATHS[0], 4).cells if cell.cell_type == "markdown")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in PATHS:
        assert path == PATHS[0] or f"]({path.name})" in first, path.name
        assert f"](notebooks/{path.name})" in readme, path.name


def test_the_title_states_a_result_and_limits_are_named(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert len(first.source.splitlines()[0].split()) >= 8, "the title should be a sentence that states the result"
    headings = re.findall(r"^## (.*)$", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.M)
    assert "What is not shown" in headings


def test_the_first_code_cell_holds_typed_and_explained_parameters(notebook):
    first, second = code_cells(notebook)[:2]
    assert first.metadata.tags == ["parameters"]
    assert all(re.match(r"^\w+: \w+ = .+  # .+$", line) for line in first.source.splitlines()), first.source
    assert "output_dir: str" in first.source
    assert "read_parameters(" in second.source
    computes = any(re.search(r"import torch|entropy_dynamics|companion\.runs", c.source) for c in code_cells(notebook))
    assert ("make_reproducible()" in second.source) == computes


def test_every_cell_ran_in_order_without_error_or_warning(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")


def test_committed_outputs_are_free_of_their_run(path, notebook):
    assert not any("papermill" in cell.metadata for cell in notebook.cells)
    assert not any("injected-parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)
    text = re.sub(r"[\w+/]{200,}", "", path.read_text(encoding="utf-8"))  # in a picture any short place may stand
    places = {str(ROOT), str(Path.home()), tempfile.gettempdir(), sys.prefix, "file://"} - {"/"}
    assert not [place for place in places if place in text]


def test_every_figure_is_saved_shown_and_put_into_numbers(notebook):
    cells = code_cells(notebook)
    tagged = [cell for cell in cells if any(tag.startswith("figure:") for tag in cell.metadata.get("tags", []))]
    assert len(tagged) == sum("save_figure(" in cell.source for cell in cells) > 0
    for cell in tagged:
        name = next(tag for tag in cell.metadata.tags if tag.startswith("figure:")).removeprefix("figure:")
        assert f'"{name}"' in cell.source
        (picture,) = (output for output in cell.outputs if "image/png" in output.get("data", {}))
        (image,) = BeautifulSoup(picture.data["text/html"], "html.parser").select("img")
        assert image["alt"] == picture.metadata["image/png"]["alt"]
        assert any(f"/{name}.csv)" in output.get("data", {}).get("text/markdown", "") for output in cell.outputs)
        place = cells.index(cell)
        # nbval does not look at pictures: their content must also be printed, here or in the cell before.
        numbers = output_text(cell) + output_text(cells[place - 1])
        assert re.search(r"\d\.\d|\d+%|\d,\d{3}", numbers), f"no printed number beside figure {name}"


def test_every_claim_of_the_notebook_holds_in_its_committed_outputs(path, notebook):
    expected = [claim.id for claim in CLAIMS.values() if claim.notebook == path.stem]
    found = list(verdicts(notebook))
    assert expected and sorted(expected) == sorted(verdict.claim for verdict in found)
    assert all(verdict.holds for verdict in found)


def test_code_lives_in_the_package(notebook):
    for cell in code_cells(notebook):
        assert not re.search(r"^\s*(def|class) ", cell.source, re.M)
        assert not re.search(r"^\s*[!%]", cell.source, re.M)  # nbval passes a failed shell command or magic
