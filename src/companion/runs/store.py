"""Records on disk by name: written whole or not at all, checksummed, and used only for the config they were made with.

What fails a check is reported and never used; who computes it anew first moves the old to quarantine/.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel

from companion.record import Record, read_record, write_record
from companion.runs.names import differences, dump

DAMAGED = (ValueError, FileNotFoundError)  # of `read_record`
_log = logging.getLogger(__name__)


class StoreError(OSError):
    """The store's folder cannot be read or written; nothing partial was left."""


class OtherConfig(StoreError):
    """A record of this name is there, but was made with another config."""


class Store:
    """Records in the folder `committed`, which is only read and comes first, and in the folder `root`.

    Committed records of training runs have lost their tensors, the final weights; those of warm starts have them.

    Raises:
        FileNotFoundError: there is no folder `committed`; it is never taken for an empty one.
    """

    def __init__(self, root: str | Path, committed: str | Path | None = None):
        self.root = Path(root)
        self.committed = Path(committed) if committed else None
        if self.committed and not self.committed.is_dir():
            raise FileNotFoundError(
                f"there is no folder {self.committed.resolve()} ({self.committed} seen from {Path.cwd()}); "
                "start from the folder notebooks/, or name the folder of the records"
            )

    def get(self, name: str, config: BaseModel) -> Record | None:
        """The record of a name and config, or None if there is none that passes all checks.

        A damaged one is reported, and so is a committed one of another config. Nothing is moved or written.

        Raises:
            OtherConfig: `root` has the name with another config.
            StoreError: the file cannot be read, which says nothing against it.
        """
        if (record := self._get_committed(name, config)) is not None or not self.path(name).is_file():
            return record
        try:
            record, found = _read(self.path(name), name, config)
        except DAMAGED as error:
            _log.warning("record %s in %s is damaged (%s: %s); not used", name, self.root, type(error).__name__, error)
            return None
        except OSError as error:
            raise StoreError(f"cannot read record {name} in {self.root}: {error}") from error
        if found:
            raise OtherConfig(
                f"{self.path(name).resolve()} was made with {found}; move it away or choose another store"
            )
        return record

    def _get_committed(self, name: str, config: BaseModel) -> Record | None:
        if self.committed is None or not (path := self.committed / f"{name}.json").is_file():
            return None
        try:
            record, found = _read(path, name, config)
        except DAMAGED as error:
            _log.warning("committed record %s is damaged (%s: %s); not used", name, type(error).__name__, error)
            return None
        except OSError as error:
            raise StoreError(f"cannot read record {name} in {self.committed}: {error}") from error
        if found:
            _log.warning("committed record %s was made with %s; not used", name, found)
            return None
        return record

    def put(self, name: str, config: BaseModel, record: Record) -> None:
        """Write a record.

        Raises:
            StoreError: the disk is full or the folder cannot be written.
            ValueError: the document holds NaN or infinity.
        """
        try:
            write_record(self.path(name), record, name=name, kind=type(config).__name__, config=dump(config))
        except OSError as error:
            raise StoreError(
                f"cannot write record {name} to {self.root}: {error}; free space or choose another folder"
            ) from error

    def compute(self, name: str, config: BaseModel, make: Callable[[], Record]) -> Record:
        """The record, made and stored if it is missing; another process that wants the same one waits for it."""
        if (record := self.get(name, config)) is not None:
            return record
        path = self.path(name).with_suffix(".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            lock.acquire()
        except OSError as error:
            raise StoreError(f"cannot write to the store {self.root}: {error}; choose another folder") from error
        try:
            if (record := self.get(name, config)) is None:
                self._quarantine(name)
                record = make()
                self.put(name, config, record)
            return record
        finally:
            path.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone
            lock.release()

    def path(self, name: str) -> Path:
        """The file of a record in `root`."""
        return self.root / f"{name}.json"

    def _quarantine(self, name: str) -> None:
        """Move what is left of a record that cannot be used; the caller holds its lock."""
        if not (harmed := self.path(name)).is_file():
            return
        folder = self.root / "quarantine"
        try:
            for path in (harmed, harmed.with_suffix(".safetensors")):
                if path.is_file():
                    target = folder / path.relative_to(self.root)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, target)
        except OSError as error:
            raise StoreError(f"record {name} is damaged and cannot be moved away: {error}") from error
        _log.warning("record %s is made anew; the damaged one is now in %s", name, folder)


def _read(path: Path, name: str, config: BaseModel) -> tuple[Record, str]:
    """The record in a file, and in words how its config differs from `config`, empty if it does not."""
    record, head = read_record(path)
    if head["name"] != name:
        raise ValueError(f"it is the record {head['name']}")
    if head["kind"] != type(config).__name__:
        return record, f"a {head['kind']} instead of a {type(config).__name__}"
    changes = differences(head["config"], dump(config))
    return record, ", ".join(f"{place} {theirs!r} instead of {ours!r}" for place, (theirs, ours) in changes.items())
