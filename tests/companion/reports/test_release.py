"""Releasing records, and the main claims after a training from nothing."""

import gzip
import re
from pathlib import Path

import pandas as pd
import pytest

from companion.comparison import fair_tables
from companion.comparison.answers import grpo_collapses
from companion.comparison.endpoints import TRAINED, endpoints, start_endpoints
from companion.comparison.fair_tables import best_free_arm
from companion.instruments.probe import Probe
from companion.laboratory.experiment import Experiment
from companion.laboratory.policies import WarmStart
from companion.laboratory.rule import Rule
from companion.laboratory.updates import StepConfig
from companion.provenance import ROOT
from companion.reports import release, tidy
from companion.runs import comparisons, fair, plan
from companion.runs.records import Run, on_this_machine, run_all
from companion.runs.replay import unlike
from companion.runs.store import Store, StoreError

START = WarmStart(sizes=(3,), width=16, layers=1, steps=1, prompts=4)
TINY = Experiment(start=START, steps=1, prompts=4, group_size=2, evaluation_samples=2, step=StepConfig(updates=2))
PROBE = Probe(experiment=TINY, rules=(Rule(),), at=(0,), batches=1)


@pytest.fixture
def small(monkeypatch):
    """Two runs are all that there is."""
    start = Run("warm-start/seed-0", START)
    runs = {"warm-start/seed-0": start}
    runs |= {name: Run(name, c, start) for name, c in (("results/grpo/seed-0", TINY), ("probes/seed-0", PROBE))}
    monkeypatch.setattr(comparisons, "named_by_name", lambda: runs)
    monkeypatch.setattr(comparisons, "named", lambda probes: {0: runs["probes/seed-0"]})
    return runs


def release_to(folder, *words):
    (folder / "data").mkdir(exist_ok=True)
    release.main(["--store", str(folder / "store"), "--data", str(folder / "data"), "--jobs", "1", *words])


def test_a_release_has_every_record_the_tables_and_the_tokens(tmp_path, small):
    release_to(tmp_path)
    data = tmp_path / "data"
    files = {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()}
    records = {f"runs/{name}.json" for name in small}
    assert files == records | {
        "runs/warm-start/seed-0.safetensors",
        *("evaluations.csv", "series.csv.gz"),
        "lens_tokens.csv",
    }
    store, released = Store(tmp_path / "store"), Store(tmp_path / "other", data / "runs")
    for name, run in small.items():
        assert released.get(name, run.config).document == store.get(name, run.config).document
    tokens = pd.read_csv(data / "lens_tokens.csv")
    assert list(tokens)[:8] == ["seed", "step", "update", "problem", "response", "row", "position", "token"]
    assert list(tokens)[8:] == [
        *("probability", "entropy", "discriminator", "centred", "advantage", "ratio", "predicted", "measured")
    ]
    assert set(tokens["update"]) == {0, 1} and set(tokens["seed"]) == {0}
    first = tokens.iloc[0]
    assert first.response[first.position] == first.token and first.problem.endswith(":")
    series = pd.read_csv(data / "series.csv.gz")
    assert series[["comparison", "arm", "seed", "step"]].values.tolist() == [["results", "grpo", 0, 0]]


def test_an_interrupted_training_goes_on_and_only_a_flag_begins_anew(tmp_path, small):
    run = small["results/grpo/seed-0"]
    run_all([run], store := Store(tmp_path / "store"), jobs=1)
    before = store.path(run.name).stat().st_mtime_ns
    release_to(tmp_path)
    assert store.path(run.name).stat().st_mtime_ns == before
    release_to(tmp_path, "--anew")
    assert (tmp_path / "store-1" / f"{run.name}.json").stat().st_mtime_ns == before  # set aside, not deleted
    assert store.path(run.name).stat().st_mtime_ns > before


def test_a_release_with_a_record_missing_leaves_the_old_one(tmp_path, small):
    store, data = Store(tmp_path / "store"), tmp_path / "data"
    run_all([small["results/grpo/seed-0"]], store, jobs=1)
    with pytest.raises(StoreError, match=r"1 records are missing .*probes/seed-0"):
        release.export(store, small, data)
    assert not data.exists()


def test_missing_records_are_added_the_others_left_alone_and_old_ones_removed(tmp_path, small):
    release_to(tmp_path)
    kept = tmp_path / "data" / "runs" / "results" / "grpo" / "seed-0.json"
    before = kept.read_bytes()
    new = TINY.model_copy(update={"seed": 1})
    small["results/grpo/seed-1"] = Run("results/grpo/seed-1", new, small["warm-start/seed-0"])
    (kept.parent / "seed-9.json").write_text("old")
    release_to(tmp_path, "--missing")
    assert kept.read_bytes() == before and not (kept.parent / "seed-9.json").exists()
    assert Store(tmp_path / "x", tmp_path / "data" / "runs").get("results/grpo/seed-1", new) is not None


def test_a_missing_data_folder_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        release.main(["--data", str(tmp_path / "nowhere")])
    assert f"there is no folder {tmp_path / 'nowhere'}" in capsys.readouterr().err


def test_the_committed_tables_are_those_of_the_records(tmp_path):
    tidy.write(Store(tmp_path / "store", ROOT / "data" / "runs"), tmp_path)
    for name, read in (
        ("evaluations.csv", Path.read_bytes),
        ("series.csv.gz", lambda path: gzip.decompress(path.read_bytes())),
    ):
        assert read(tmp_path / name) == read(ROOT / "data" / name), f"{name}: run make tables"


def test_the_lines_of_pandas_in_the_data_page_run(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "data" / "README.md").read_text(encoding="utf-8"), re.S)
    exec(block, {})
    assert "clip-b" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_training_from_nothing_gives_what_the_records_say(tmp_path):
    """GRPO with its free rivals, Clip_B and a controlled arm, two seeds, nothing committed used."""
    chosen = plan.choices()
    target = chosen.targets[0]
    held, free = f"D at {target:g}", best_free_arm(chosen)
    every = fair.finals(chosen) | fair.equal_entropy(chosen)
    runs = {key: run for key, run in every.items() if key[0] in ("GRPO", "Clip_B", free, held) and key[1] in (10, 11)}
    trained = comparisons.records_of(comparisons.Runs("fair", runs), Store(tmp_path), minutes=120)
    committed, same = Store(tmp_path / "nothing", ROOT / "data" / "runs"), 0
    for key, run in comparisons.named(comparisons.Runs("fair", runs)).items():
        then = committed.get(run.name, run.config)
        if on_this_machine(then):
            assert list(unlike(trained[key].document, then.document)) == [], run.name
            same += 1
    print(f"{same} of {len(runs)} records come from such a machine and are the same, number by number")
    table = endpoints(trained)[lambda t: t["size"] == TRAINED]
    holds, line = grpo_collapses(pd.concat([start_endpoints(trained), table]))
    entropy = table.pivot(index="seed", columns="arm", values="entropy")
    print(line, entropy, sep="\n")
    assert holds, line
    assert (entropy["Clip_B"] > entropy["GRPO"]).all() and (entropy[held] > entropy["Clip_B"]).all()
    assert fair_tables.held({key: record for key, record in trained.items() if key[0] == held})["holds"].all()
