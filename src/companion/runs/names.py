"""What a run is called: COMPARISON/ARM/seed-N, in words, by one rule. One run has one name, whoever asks for it."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from companion.laboratory.policies import WarmStart
from companion.record import canonical, place, slug

WARM_START = "warm-start"
ABSENT = "(absent)"


class Runs(dict):
    """The configs of one comparison by (arm, seed), or by seed where there is one arm."""

    def __init__(self, comparison: str, configs: Mapping[Hashable, BaseModel]):
        super().__init__(configs)
        self.comparison = comparison


def dump(config: BaseModel) -> dict[str, Any]:
    """The config as plain JSON values, every default spelled out."""
    return config.model_dump(mode="json")


class Catalogue:
    """The runs whose records are released, each under the name that it has in the first comparison that looks at it."""

    def __init__(self, comparisons: Iterator[Runs]):
        self.configs: dict[str, BaseModel] = {}
        self._names: dict[str, str] = {}
        for runs in comparisons:
            for key, config in runs.items():
                name = self._names.setdefault(identity(config), place(runs.comparison, key))
                if self.configs.setdefault(name, config) != config:
                    raise ValueError(f"{name} would name two different runs; call one of the arms otherwise")

    def name(self, config: BaseModel, comparison: str, key: tuple[str, int] | int) -> str:
        """The name of a run; one that is not released gets its place in its comparison and what differs.

        So results/grpo/seed-0-with-steps-10 is never written where the released results/grpo/seed-0 stands. File names
        have their limits: a difference is cut to 60 characters.
        """
        if name := self._names.get(identity(config)):
            return name
        name = place(comparison, key)
        folder = name.rpartition("/")[0]
        alike = [n for n in self.configs if n == name] or [n for n in self.configs if n.rpartition("/")[0] == folder]
        if not alike:
            return name
        changes = differences(dump(config), dump(self.configs[alike[0]]))
        if alike[0] != name:
            changes = {path: value for path, value in changes.items() if path.rpartition(".")[2] != "seed"}
        words = [slug(f"{path} {value}".replace(" -", " minus ")[:60]) for path, (value, _) in changes.items()]
        return f"{name}-with-{'-'.join(words)}" if words else name


def identity(config: BaseModel) -> str:
    """The same text for the same kind of config with the same values."""
    return canonical([type(config).__name__, dump(config)])


def differences(config: Any, reference: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two configs of plain JSON values differ: path -> (value, reference's); `ABSENT` where one lacks it."""
    if isinstance(config, dict) and isinstance(reference, dict):
        parts = [
            differences(config.get(name, ABSENT), reference.get(name, ABSENT), f"{path}.{name}".lstrip("."))
            for name in dict.fromkeys([*config, *reference])
        ]
        return {place: values for part in parts for place, values in part.items()}
    return {} if config == reference else {path: (config, reference)}


def warm_starts(configs: Iterator[BaseModel]) -> Runs:
    """The warm starts that runs need, by seed; those of another kind by what is different, too."""

    def key(start: WarmStart) -> Hashable:
        usual = WarmStart(seed=start.seed)
        changes = differences(dump(start), dump(usual))
        return (
            (", ".join(f"{path} {value}" for path, (value, _) in changes.items()), start.seed)
            if changes
            else start.seed
        )

    return Runs(WARM_START, {key(start): start for start in map(start_of, configs) if start is not None})


def start_of(config: BaseModel) -> WarmStart | None:
    """The warm start that a run trains from."""
    experiment = getattr(config, "experiment", config)
    return getattr(experiment, "start", None)
