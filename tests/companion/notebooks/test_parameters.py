import pytest
from pydantic import Field

from companion.notebooks.parameters import read_parameters
from companion.provenance import ROOT

ANNOTATIONS = {"seed": int, "rate": float, "steps": list, "name": str}
VALUES = {"seed": 1, "rate": 0.5, "steps": [1, 2], "name": "x"}


def namespace(**changes):
    return {"__annotations__": ANNOTATIONS, "In": [""], "Out": {}, "_ih": [], "exit": exit, **VALUES, **changes}


def test_parameters_are_read_and_frozen():
    parameters = read_parameters(namespace(), seed=Field(ge=0))
    assert parameters.model_dump() == VALUES
    with pytest.raises(ValueError):
        parameters.seed = 2


def test_a_number_that_arrives_as_text_is_converted():
    assert read_parameters(namespace(rate="1e-4")).rate == 1e-4  # what papermill -y passes for 1e-4


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"sede": 3}, "sede: Extra inputs are not permitted, got 3 .known: seed, rate"),
        ({"rate": "fast"}, "rate: .*number.*got 'fast'"),
        ({"seed": -1}, "seed: .*greater than or equal to 0, got -1"),
        ({"seed": 1.5}, "seed: .*integer"),
        ({"steps": 3}, "steps: .*list.*got 3"),
    ],
)
def test_bad_parameters_are_named(changes, problem):
    with pytest.raises(ValueError, match=problem):
        read_parameters(namespace(**changes), seed=Field(ge=0))


def test_bounds_for_an_undefined_parameter_are_an_error():
    with pytest.raises(ValueError, match="'sede'"):
        read_parameters(namespace(), sede=Field(ge=0))


@pytest.mark.parametrize("folder", [".", "..", "/"])
def test_a_relative_path_that_leaves_the_project_is_refused_with_the_remedy(monkeypatch, folder):
    monkeypatch.chdir(ROOT / folder)
    with pytest.raises(ValueError, match=r"name is '\.\./data/runs', which from .* --cwd notebooks.* absolute"):
        read_parameters(namespace(name="../data/runs"))


def test_paths_are_free_from_the_notebooks_and_absolute_ones_from_everywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT / "notebooks")
    for value in ("../data/runs", "../build/new", "../build/../data", "", "data", str(tmp_path)):
        assert read_parameters(namespace(name=value)).name == value
    monkeypatch.chdir(tmp_path)
    assert read_parameters(namespace(name=str(ROOT / "data"))).name == str(ROOT / "data")
