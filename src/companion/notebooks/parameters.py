"""What the first cells of every notebook need: checked parameters and reproducible arithmetic."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from companion.provenance import ROOT

_PLAIN = (bool, int, float, str, list, dict, type(None))
_FROM_IPYTHON = {"In", "Out"}


def read_parameters(namespace: Mapping[str, Any], **bounds: FieldInfo) -> BaseModel:
    """The notebook's parameters as a frozen, validated object; call it right after the parameters cell.

    The annotated names of the parameters cell (`seed: int = 0`) are the known parameters. Every other plain
    value in the notebook's namespace can only have come from outside, so it is rejected: papermill itself
    accepts an unknown name with no more than a warning.

    Args:
        namespace: globals() of the notebook.
        bounds: `pydantic.Field(...)` constraints by parameter name, such as states=Field(gt=0).

    Raises:
        ValueError: an unknown parameter, a value of the wrong type or out of range, or a path that begins with .. and
            leaves the project, as all do where the notebook is started from a wrong folder; each one is named.
    """
    types = dict(namespace.get("__annotations__", {}))
    if strangers := bounds.keys() - types.keys():
        raise ValueError(f"bounds for {sorted(strangers)}, which the parameters cell does not define")
    given = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and name not in _FROM_IPYTHON and isinstance(value, _PLAIN)
    }
    fields = {name: (kind, bounds.get(name, ...)) for name, kind in types.items()}
    model = create_model("Parameters", __config__=ConfigDict(extra="forbid", frozen=True), **fields)
    for name, value in given.items():
        if isinstance(value, str) and Path(value).parts[:1] == ("..",) and ROOT not in Path(value).resolve().parents:
            raise ValueError(
                f"{name} is {value!r}, which from {Path.cwd()} leads to {Path(value).resolve()}, out of the project in "
                f"{ROOT}. Paths count from notebooks/: start there (papermill: --cwd notebooks), or pass absolute ones"
            )
    try:
        return model(**given)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        raise ValueError(f"bad notebook parameters: {problems} (known: {', '.join(types)})") from None


def make_reproducible() -> None:
    """Deterministic algorithms on one thread: the same machine gives the same bits, run after run."""
    import torch  # large, and a notebook that computes nothing with it need not load it

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
