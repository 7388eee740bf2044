"""Train every run of the notebooks from nothing, and release what they need as data.

    python -m companion.reports.release

trains into build/retrained, goes on where an earlier call was interrupted, and when all is there writes the records,
the tidy tables and the table of tokens to data/. With --missing it makes only the runs without a committed record.
"""

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path

from companion.laboratory.policies import WarmStart
from companion.record import Record
from companion.reports import tidy
from companion.reports.tables import token_table
from companion.runs import comparisons
from companion.runs.records import Run, run_all
from companion.runs.store import Store, StoreError

TOKEN_SEEDS = (0, 1)  # two seeds keep the table at a few megabytes


def export(store: Store, runs: Mapping[str, Run], data: Path) -> None:
    """Copy the records of `runs` to `data`/runs, once all of them are there; only warm starts keep their tensors.

    Raises:
        StoreError: a record is missing; `data` is left as it was.
    """
    records = {name: store.get(name, run.config) for name, run in runs.items()}
    if missing := [name for name, record in records.items() if record is None]:
        raise StoreError(f"{len(missing)} records are missing in {store.root}, {missing[0]} among them")
    released = Store(data / "runs")
    for name, record in records.items():
        tensors = record.tensors if isinstance(runs[name].config, WarmStart) else {}
        released.put(name, runs[name].config, Record(record.document, tensors, record.made_by))


def write_tables(data: Path) -> None:
    """The tidy tables of the committed records."""
    tidy.write(Store(data / "runs"), data)


def write_tokens(store: Store, data: Path) -> None:
    """The table of tokens, from probes with their tensors."""
    probes = comparisons.named(comparisons.probes(seeds=TOKEN_SEEDS))
    table = token_table({seed: store.get(run.name, run.config) for seed, run in probes.items()})
    table.to_csv(data / "lens_tokens.csv", index=False, float_format="%.4g")


def forget_others(runs: Mapping[str, Run], data: Path) -> list[str]:
    """Remove committed records of these comparisons that no comparison looks at any more; their names."""
    folders = {name.partition("/")[0] for name in runs}
    files = {
        path.relative_to(data / "runs").with_suffix("").as_posix(): path
        for folder in folders
        for path in (data / "runs" / folder).rglob("seed-*.json")
    }
    for name in files.keys() - runs.keys():
        files[name].unlink()
    return sorted(files.keys() - runs.keys())


def set_aside(folder: Path) -> None:
    """Move what an earlier training left out of the way, for a start anew."""
    if folder.exists():
        number = next(i for i in range(1, 10**6) if not folder.with_name(f"{folder.name}-{i}").exists())
        os.replace(folder, folder.with_name(f"{folder.name}-{number}"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m companion.reports.release",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--store", type=Path, default=Path("build/retrained"), help="folder where training goes on")
    parser.add_argument("--anew", action="store_true", help="set aside what the store has, and begin again")
    parser.add_argument("--missing", action="store_true", help="make only what has no committed record, and add it")
    parser.add_argument("--tables", action="store_true", help="train nothing; write the tidy tables anew")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder where records are released")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        parser.error(f"there is no folder {options.data.resolve()}; start from the project's root, or pass --data")
    if options.tables:
        write_tables(options.data)
        return
    if options.anew:
        set_aside(options.store)
    runs, start = comparisons.named_by_name(), time.perf_counter()
    committed = Store(options.data / "runs")
    wanted = runs
    store = Store(options.store)
    if options.missing:
        wanted = {name: run for name, run in runs.items() if committed.get(name, run.config) is None}
        store = Store(options.store, options.data / "runs")
    run_all(list(wanted.values()), store, jobs=options.jobs, minutes=float("inf"))
    export(store, wanted, options.data)
    removed = forget_others(runs, options.data)
    if not options.missing:
        write_tokens(store, options.data)
    write_tables(options.data)
    minutes = (time.perf_counter() - start) / 60
    print(f"{len(wanted)} records released in {options.data} after {minutes:.0f} minutes; {len(removed)} removed")


if __name__ == "__main__":
    main()
