import pytest
from pydantic import Field

from companion.notebooks.parameters import read_parameters

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
