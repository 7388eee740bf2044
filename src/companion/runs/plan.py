"""The plan of the comparison, laid down before it was run, and what was then chosen on validation problems."""

import hashlib
import json
import subprocess
import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from companion.files import write_atomically
from companion.provenance import ROOT

PLAN, CHOICES = ROOT / "data/plan.toml", ROOT / "data/choices.json"


@cache
def plan() -> dict[str, Any]:
    """The plan, by section."""
    return tomllib.loads(PLAN.read_text(encoding="utf-8"))


@cache
def checksum() -> str:
    """SHA-256 of the plan's file, which every record of the comparison holds."""
    return hashlib.sha256(PLAN.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Choices:
    """What the plan's rules chose, as far as the runs that decide it were there."""

    plan: str  # checksum
    rate: float | None = None  # learning rate
    batches: int | None = None
    effects: dict[str, float] | None = None  # of actuators, nats a batch at strength 1
    strengths: dict[str, float] | None = None  # by arm
    free: dict[str, float] | None = None  # best setting of each free rival, the best rival first
    targets: tuple[float, ...] | None = None  # of entropy, nats
    shares: tuple[float, ...] | None = None  # that the random mask takes at each target

    def write(self, path: Path = CHOICES) -> None:
        """As JSON."""
        write_atomically(path, json.dumps(asdict(self), indent=1) + "\n")


def choices(path: Path = CHOICES) -> Choices:
    """Those that are written; where there is no file, none but the plan's checksum.

    Raises:
        ValueError: they were made under another plan.
    """
    if not path.exists():
        return Choices(checksum())
    stored = json.loads(path.read_text(encoding="utf-8"))
    found = Choices(**{name: tuple(x) if isinstance(x, list) else x for name, x in stored.items()})
    if found.plan != checksum():
        raise ValueError(f"{path} was made under the plan {found.plan[:12]}..., and {PLAN} is {checksum()[:12]}...")
    return found


def require_committed(path: Path = CHOICES) -> None:
    """Test problems may be looked at only when what was chosen on others is committed; where there is no git, always.

    Raises:
        RuntimeError: the file is not in the last commit as it stands.
    """

    def git(*arguments: str) -> int:
        return subprocess.run(["git", *arguments], cwd=path.parent, capture_output=True).returncode

    if git("rev-parse", "HEAD") == 0 and git("ls-files", "--error-unmatch", path.name) + git(
        "diff", "--quiet", "HEAD", "--", path.name
    ):
        raise RuntimeError(
            f"{path} is not committed as it stands; commit what was chosen on validation problems before anything is "
            "evaluated on test problems"
        )
