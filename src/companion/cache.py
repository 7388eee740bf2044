"""A folder that takes long to make: kept in the user's cache, checked whenever it is used, made anew if damaged."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path
from safetensors import SafetensorError

from companion.files import sha256

VARIABLE = "ENTROPY_DYNAMICS_CACHE"
CHECKSUMS = "checksums.sha256"  # as sha256sum --check reads it; written last
_log = logging.getLogger(__name__)


def cached_folder(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` in $ENTROPY_DYNAMICS_CACHE, or else the user's cache; `make(folder)` makes what is missing.

    A damaged one is reported, moved to NAME.damaged and made anew. Of several processes one makes it.

    Raises:
        OSError: there is no cache folder, or it cannot be read or written; names the folder and the variable.
    """
    cache = _cache()
    try:
        if _damaged(cache / name):
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f"{name}.lock"):
                _make(cache / name, make)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"cannot keep {name} in the cache folder {cache}: {error}; "
            f"free space and allow writing there, or set {VARIABLE} to another folder"
        ) from error
    return cache / name


def _cache() -> Path:
    try:
        cache = Path(os.environ.get(VARIABLE) or user_cache_path("entropy-dynamics"))
        if not cache.is_absolute():  # ~/.cache where there is no home folder, and what depends on the current folder
            raise RuntimeError(f"{cache} is not an absolute path")
    except RuntimeError as error:
        raise FileNotFoundError(f"no folder for the cache: {error}; set {VARIABLE} to one") from error
    return cache


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    if not (damaged := _damaged(folder)):
        return  # another process has made it meanwhile
    partial, aside = folder.with_name(f"{folder.name}.partial"), folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        aside.unlink(missing_ok=True)  # it may have been a file that was moved there
        folder.rename(aside)
        told = "%s is damaged (%s); moved to %s and made anew; %s chooses another cache folder"
        _log.warning(told, folder, ", ".join(damaged), aside, VARIABLE)
    try:
        make(partial)
        (partial / CHECKSUMS).write_text("\n".join(sorted(_checksums(partial))) + "\n", encoding="utf-8")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _damaged(folder: Path) -> list[str]:
    """The files in a folder that are not as they were written; its checksums if they, or it, are not there."""
    try:
        written = set((folder / CHECKSUMS).read_text(encoding="utf-8", errors="replace").splitlines())
        return sorted({line.partition("  ")[2] for line in written ^ _checksums(folder)})
    except (FileNotFoundError, NotADirectoryError):
        return [CHECKSUMS]


def _checksums(folder: Path) -> set[str]:
    """Of all files but the checksums' own and hidden ones, which a file manager may leave and nothing here reads."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "." and path.name != CHECKSUMS]
    return {f"{sha256(path)}  {path.name}" for path in files}
