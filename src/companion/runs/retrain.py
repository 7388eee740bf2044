"""Train every run of the notebooks from nothing, and release what they need as data.

    python -m companion.runs.retrain

trains into a fresh store, whatever is committed, and replaces the committed records and the table of tokens.
With --missing it makes only the runs without a committed record, and adds theirs.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from companion.files import sha256, write_atomically
from companion.provenance import provenance
from companion.reports.tables import token_table
from companion.runs import comparisons
from companion.runs.records import record_key, run_all
from companion.runs.store import Store

TOKEN_SEEDS = (0, 1)  # two seeds keep the table at a few megabytes


def export(store: Store, data: Path, *, seconds: float | None) -> None:
    """Replace `data`/records and `data`/lens_tokens.csv by what the store holds, once all of it is there.

    The folder gets each record without its tensors, and origin.json: the command, commit, machine and versions of this
    release, wall times of each record and, if it was trained in one go, of the whole, and the sha256 of every file. The
    code that made a record is named by the hashes within it.

    Raises:
        StoreError: a record of the notebooks is missing; `data` is left as it was.
    """
    made_by = provenance()  # before anything is written here, which git would call dirty
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data) as staging:
        folder = Path(staging) / "records"
        folder.mkdir()
        runs = comparisons.all_runs()
        for run in runs:
            store.export(record_key(run), folder)
        tokens = token_table(
            {seed: store.get(record_key(p)) for seed, p in comparisons.probes(seeds=TOKEN_SEEDS).items()}
        )
        table = Path(staging) / "lens_tokens.csv"
        tokens.to_csv(table, index=False, float_format="%.4g")
        origin = {
            "command": "python -m companion.runs.retrain" + (" --resume" if seconds is None else ""),
            "seconds": seconds and round(seconds),
            "seconds_of_records": {record_key(run): store.seconds(record_key(run)) for run in runs},
            "sha256": {path.name: sha256(path) for path in sorted([*folder.glob("*.json"), table])},
            **made_by,
        }
        write_atomically(folder / "origin.json", json.dumps(origin, indent=1, sort_keys=True) + "\n")
        old = data / "records"
        if old.exists():
            os.replace(old, Path(staging) / "old")
        os.replace(folder, old)
        os.replace(table, data / "lens_tokens.csv")


def add_missing(store: Store, data: Path, *, jobs: int) -> int:
    """Make the runs without a record in `data`/records, add theirs and say so in origin.json; how many there were."""
    made_by, folder = provenance(), data / "records"
    keys = {record_key(run): run for run in comparisons.all_runs()}
    missing = [key for key in keys if not (folder / f"{key}.json").is_file()]
    if not missing:
        return 0
    run_all([keys[key] for key in missing], store, jobs=jobs)
    for key in missing:
        store.export(key, folder)
    origin = json.loads((folder / "origin.json").read_text())
    origin["seconds_of_records"] |= {key: store.seconds(key) for key in missing}
    origin["sha256"] |= {f"{key}.json": sha256(folder / f"{key}.json") for key in missing}
    added = {"command": "python -m companion.runs.retrain --missing", "records": missing, **made_by}
    origin["added"] = [*origin.get("added", []), added]
    write_atomically(folder / "origin.json", json.dumps(origin, indent=1, sort_keys=True) + "\n")
    return len(missing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("build/retrained"), help="working store")
    parser.add_argument("--resume", action="store_true", help="use what the store already has")
    parser.add_argument("--missing", action="store_true", help="make only what has no committed record, and add it")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where records are released")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    options = parser.parse_args()
    if options.missing:
        count = add_missing(Store(options.store), options.data, jobs=options.jobs)
        print(f"{count} records added to {options.data}")
        return
    if not options.resume and options.store.exists() and any(options.store.iterdir()):
        parser.error(f"{options.store} is not empty; remove it, or pass --resume to use what it has")
    store = Store(options.store)
    start = time.perf_counter()
    run_all(comparisons.all_runs(), store, jobs=options.jobs)
    seconds = time.perf_counter() - start
    export(store, options.data, seconds=None if options.resume else seconds)
    print(f"{len(comparisons.all_runs())} records in {seconds / 60:.0f} minutes; released in {options.data}")


if __name__ == "__main__":
    main()
