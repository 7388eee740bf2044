"""What a long computation leaves, and the file that keeps it: words for people, a checksum for machines.

NAME.json holds schema, name, kind and config, then the document, then what made it, and a checksum of all the rest.
Where there are tensors they stand in NAME.safetensors beside it, with their checksum in the JSON file.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from companion.files import write_atomically

SCHEMA = 2
HEAD = {"schema", "name", "kind", "config", "made_by", "tensors_sha256", "sha256"}


@dataclass(frozen=True)
class Record:
    """A document of plain JSON values, tensors by name, and, once it was on disk, what made it."""

    document: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    made_by: dict[str, Any] = field(default_factory=dict)


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, NaN refused with ValueError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def slug(text: str) -> str:
    """The text as part of a file name: lower case; what is neither letter, digit nor point becomes one hyphen."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def place(comparison: str, key: tuple[str, int] | int) -> str:
    """The name of a comparison's run, such as results/clip-b/seed-0."""
    *arm, seed = key if isinstance(key, tuple) else (key,)
    return "/".join([comparison, *map(slug, arm), f"seed-{seed}"])


def checksum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors as safetensors keeps them."""
    return hashlib.sha256(save(tensors)).hexdigest()


def write_record(path: Path, record: Record, *, name: str, kind: str, config: dict[str, Any]) -> None:
    """Write a record to `path` (.json); the document last, so that it vouches for its tensors.

    Raises:
        OSError: the disk is full or the folder cannot be written; no half of a file is left.
        ValueError: the document holds NaN or infinity, or one of `HEAD`.
    """
    if clash := HEAD & record.document.keys():
        raise ValueError(f"the document has {', '.join(sorted(clash))}, which name other parts of a record")
    tensors = save(record.tensors) if record.tensors else b""
    entry = {
        "schema": SCHEMA,
        "name": name,
        "kind": kind,
        "config": config,
        **record.document,
        "made_by": record.made_by,
        "tensors_sha256": hashlib.sha256(tensors).hexdigest() if tensors else None,
    }
    entry["sha256"] = digest(entry)
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in entry.items())
    text = "{\n" + ",\n".join(lines) + "\n}\n"  # a line a key: readable, and a change shows where it is
    path.parent.mkdir(parents=True, exist_ok=True)
    if tensors:
        write_atomically(path.with_suffix(".safetensors"), tensors)
    write_atomically(path, text)


def read_record(path: Path) -> tuple[Record, dict[str, Any]]:
    """The record in a file, and its head: name, kind and config.

    Raises:
        ValueError: it is damaged; says how.
        FileNotFoundError: there is no such file, or its tensors are missing.
    """
    try:
        return _read(path)
    except (KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise ValueError(f"it is not a record ({type(error).__name__}: {error})") from error


def _read(path: Path) -> tuple[Record, dict[str, Any]]:
    entry = json.loads(path.read_text(encoding="utf-8"))
    if entry.pop("schema") != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    expected = entry.pop("sha256")
    if digest({"schema": SCHEMA} | entry) != expected:
        raise ValueError("its content does not match its checksum")
    tensors = b""
    if (of_tensors := entry.pop("tensors_sha256")) is not None:
        tensors = path.with_suffix(".safetensors").read_bytes()
        if hashlib.sha256(tensors).hexdigest() != of_tensors:
            raise ValueError("its tensors do not match their checksum")
    head = {key: entry.pop(key) for key in ("name", "kind", "config")}
    made_by = entry.pop("made_by")
    return Record(entry, load(tensors) if tensors else {}, made_by), head
