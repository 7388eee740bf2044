"""What build/ holds and how it came about: receipts of good runs, the manifest made from them, and its check.

A receipt vouches for what one notebook left: it names the run by a key, and lists every file with its hash.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from companion.files import sha256, write_atomically
from companion.provenance import library_versions

PACKAGES = Path(__file__).parents[2]  # the library and the companion
RECEIPT_FIELDS = {"key", "config", "seconds", "peak", "verdicts", "figures", "made_by", "artifacts"}


@dataclass(frozen=True)
class Settings:
    """The folders and limits of one invocation."""

    notebooks: Path
    build: Path
    data: Path
    parameters: Mapping[str, Any]
    timeout: float
    force: bool

    def receipt(self, stem: str) -> Path:
        return self.build / "receipts" / f"{stem}.json"

    def failed(self, stem: str) -> Path:
        return self.build / "notebooks" / f"{stem}.error.ipynb"


@dataclass(frozen=True)
class Result:
    """What became of one notebook: status is "ok", "unchanged" or "failed", peak the most memory in bytes."""

    stem: str
    status: str
    seconds: float = 0.0
    peak: int = 0
    problem: str = ""
    verdicts: tuple[dict, ...] = ()


def run_key(notebook: NotebookNode, settings: Settings) -> str:
    """Hash of everything that a run depends on; the notebook's outputs are not among it."""
    cells = [[c.cell_type, c.source, c.metadata.get("tags", []), c.get("attachments", {})] for c in notebook.cells]
    named = [settings.notebooks / value for value in settings.parameters.values() if isinstance(value, str) and value]
    inputs = {
        "cells": cells,
        "files": [_hashes(PACKAGES, "*.py", "*.csv"), _hashes(settings.data), *map(_hashes, named)],
        "parameters": dict(settings.parameters),
        "versions": library_versions(),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def _hashes(path: Path, *patterns: str) -> list[tuple[str, str]]:
    """Relative name and hash of a file, or of every file below a folder; empty if there is neither."""
    if path.is_file():
        return [("", sha256(path))]
    files = sorted(file for pattern in patterns or ["*"] for file in path.rglob(pattern) if file.is_file())
    return [(file.relative_to(path).as_posix(), sha256(file)) for file in files]


def read_receipt(stem: str, settings: Settings) -> dict | None:
    """What the last good run of a notebook left; None if there is none or it is damaged."""
    try:
        receipt = json.loads(settings.receipt(stem).read_text(encoding="utf-8"))
        return receipt if receipt.keys() >= RECEIPT_FIELDS else None
    except (OSError, ValueError, AttributeError):
        return None


def is_intact(artifacts: Mapping[str, str], build: Path) -> bool:
    """Whether every file is still there, bit for bit."""
    return all((build / name).is_file() and sha256(build / name) == digest for name, digest in artifacts.items())


def receipts(settings: Settings) -> dict[str, dict]:
    """The receipts of all good runs by notebook."""
    stems = sorted(path.stem for path in (settings.build / "receipts").glob("*.json"))
    return {stem: receipt for stem in stems if (receipt := read_receipt(stem, settings))}


def artifacts_on_record(settings: Settings) -> dict[str, str]:
    """Name and hash of every file that a receipt vouches for."""
    return {name: digest for receipt in receipts(settings).values() for name, digest in receipt["artifacts"].items()}


def forget_removed_notebooks(settings: Settings) -> None:
    """Drop the receipts of notebooks that are no longer there."""
    for path in (settings.build / "receipts").glob("*.json"):
        if not (settings.notebooks / f"{path.stem}.ipynb").is_file():
            path.unlink()


def write_manifest(results: list[Result], settings: Settings) -> None:
    """Write figures.json and manifest.json from the receipts of all good notebooks in build/.

    A notebook that failed now is listed with that status and, as `last_good`, with what its last good run left.
    """
    good, figures, artifacts = receipts(settings), [], {}
    for stem, receipt in good.items():
        artifacts |= receipt.pop("artifacts")
        for figure in receipt["figures"]:
            figures.append({"notebook": stem, "files": f"figures/{figure['name']}.*", **figure})
    notebooks = {stem: {"status": "not selected", **receipt} for stem, receipt in good.items()}
    for result in results:
        if result.status == "failed":
            last_good = good.get(result.stem)
            notebooks[result.stem] = {"status": "failed", "problem": result.problem, "last_good": last_good}
        else:
            notebooks[result.stem]["status"] = result.status
    manifest = {"notebooks": notebooks, "artifacts": artifacts}
    settings.build.mkdir(parents=True, exist_ok=True)
    write_atomically(settings.build / "figures.json", json.dumps(figures, indent=1) + "\n")
    write_atomically(settings.build / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def problems_of_build(build: Path) -> list[str]:
    """What speaks against build/: files missing or unlike the manifest, failed notebooks, nothing at all."""
    try:
        manifest = json.loads((build / "manifest.json").read_text(encoding="utf-8"))
        artifacts, notebooks = manifest["artifacts"], manifest["notebooks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"no readable manifest in {build} ({type(error).__name__}: {error}); run the notebooks first"]
    damaged = [name for name, digest in artifacts.items() if not is_intact({name: digest}, build)]
    return (
        [f"differs from the manifest: {name}" for name in damaged]
        + [f"failed: {stem}" for stem, notebook in notebooks.items() if notebook["status"] == "failed"]
        + ([] if artifacts else ["the manifest lists no artifacts"])
    )
