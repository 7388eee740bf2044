"""Records of long computations on disk: content-addressed, checksummed, written whole or not at all.

A record is KEY.json (a document and its checksum) and, where it has tensors, KEY.safetensors beside it. What fails
any check is moved to quarantine/ and reported, never used. A file KEY.seconds holds the wall time, which
belongs to no hash.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from companion.files import write_atomically

SCHEMA = 1
_log = logging.getLogger(__name__)


class StoreError(OSError):
    """The store's folder cannot be read or written; nothing partial was left."""


@dataclass(frozen=True)
class Record:
    """A document of plain JSON values, and tensors by name."""

    document: dict[str, Any]
    tensors: dict[str, Tensor]


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, NaN refused with ValueError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value: a record's key is that of everything the record depends on."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


class Store:
    """Records in the folder `root`, and below it those in the folder `committed`, which is only read.

    Committed records have lost their tensors, which would be large; who needs them asks `working()`.
    """

    def __init__(self, root: str | Path, committed: str | Path | None = None):
        self.root = Path(root)
        self.committed = Path(committed) if committed else None

    def working(self) -> "Store":
        """The same store without the committed records."""
        return Store(self.root)

    def get(self, key: str) -> Record | None:
        """The record, or None if there is none that passes all checks; a bad one goes to quarantine/.

        A bad record among the committed ones stays where it is and is reported.
        """
        if not self._path(key).is_file():
            return self._get_committed(key)
        try:
            return self._read(key)
        except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError, SafetensorError) as error:
            self._quarantine(key, f"{type(error).__name__}: {error}")
            return None
        except OSError as error:  # says nothing against the record
            raise StoreError(f"cannot read record {key} in {self.root}: {error}") from error

    def _get_committed(self, key: str) -> Record | None:
        if self.committed is None or not (self.committed / f"{key}.json").is_file():
            return None
        try:
            return Store(self.committed)._read(key)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            _log.warning("committed record %s is bad (%s: %s); not used", key, type(error).__name__, error)
            return None

    def export(self, key: str, folder: Path) -> None:
        """Write a record, without its tensors, to a folder that can serve as `committed`."""
        record = self.get(key)
        if record is None:
            raise StoreError(f"there is no record {key} in {self.root} to export")
        Store(folder).put(key, Record(record.document, {}))

    def put(self, key: str, record: Record, *, seconds: float | None = None) -> None:
        """Write a record; the document last, so that it vouches for its tensors.

        Raises:
            StoreError: the disk is full or the folder cannot be written.
            ValueError: the document holds NaN or infinity.
        """
        tensors = save(record.tensors) if record.tensors else b""
        entry = {
            "schema": SCHEMA,
            "key": key,
            "sha256": digest(record.document),
            "tensors_sha256": hashlib.sha256(tensors).hexdigest(),
            "document": record.document,
        }
        text = canonical(entry) + "\n"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if tensors:
                write_atomically(self._path(key, "safetensors"), tensors)
            if seconds is not None:
                write_atomically(self._path(key, "seconds"), f"{seconds:.2f}\n")
            write_atomically(self._path(key), text)
        except OSError as error:
            raise StoreError(
                f"cannot write record {key} to {self.root}: {error}; free space or choose another folder"
            ) from error

    def compute(self, key: str, make: Callable[[], tuple[Record, float]]) -> Record:
        """The record, made and stored if it is missing; another process that wants the same one waits for it."""
        if (record := self.get(key)) is not None:
            return record
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._path(key, "lock"))
            lock.acquire()
        except OSError as error:
            raise StoreError(f"cannot write to the store {self.root}: {error}; choose another folder") from error
        try:
            if (record := self.get(key)) is None:
                record, seconds = make()
                self.put(key, record, seconds=seconds)
            return record
        finally:
            self._path(key, "lock").unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone
            lock.release()

    def seconds(self, key: str) -> float | None:
        """How long the record took to make, if that is known."""
        path = self._path(key, "seconds")
        return float(path.read_text()) if path.is_file() else None

    def _path(self, key: str, suffix: str = "json") -> Path:
        return self.root / f"{key}.{suffix}"

    def _read(self, key: str) -> Record:
        entry = json.loads(self._path(key).read_text())
        if entry["schema"] != SCHEMA:
            raise ValueError(f"its schema is {entry['schema']!r}, expected {SCHEMA}")
        if entry["key"] != key:
            raise ValueError(f"it is the record {entry['key']}")
        if digest(entry["document"]) != entry["sha256"]:
            raise ValueError("its document does not match its checksum")
        path = self._path(key, "safetensors")
        tensors = path.read_bytes() if entry["tensors_sha256"] != _EMPTY else b""
        if hashlib.sha256(tensors).hexdigest() != entry["tensors_sha256"]:
            raise ValueError("its tensors do not match their checksum")
        return Record(entry["document"], load(tensors) if tensors else {})

    def _quarantine(self, key: str, reason: str) -> None:
        folder = self.root / "quarantine"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for suffix in ("json", "safetensors"):
                with contextlib.suppress(FileNotFoundError):  # there were no tensors, or another process was faster
                    os.replace(self._path(key, suffix), folder / f"{key}.{suffix}")
        except OSError as error:
            raise StoreError(f"record {key} is bad ({reason}) and cannot be moved away: {error}") from error
        _log.warning("record %s is bad (%s); moved to %s, it will be computed anew", key, reason, folder)


_EMPTY = hashlib.sha256(b"").hexdigest()
