"""Releasing records, and the main claims after a training from nothing."""

import json

import pandas as pd
import pytest

from companion.files import sha256
from companion.instruments.probe import Probe
from companion.laboratory.experiment import Experiment
from companion.laboratory.policies import WarmStart
from companion.reports import results, tables
from companion.runs import comparisons, retrain
from companion.runs.records import record_key, run_all
from companion.runs.store import Store, StoreError
from entropy_dynamics.grpo import StepConfig
from entropy_dynamics.methods import Rule

START = WarmStart(sizes=(3,), width=16, layers=1, steps=1, prompts=4)
TINY = Experiment(start=START, steps=1, prompts=4, group_size=2, evaluation_samples=2, step=StepConfig(updates=2))
PROBE = Probe(experiment=TINY, rules=(Rule(),), at=(0,), batches=1)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(comparisons, "all_runs", lambda: [TINY, PROBE])
    monkeypatch.setattr(comparisons, "probes", lambda *, seeds: {0: PROBE})


def test_a_release_has_every_record_its_checksum_and_the_tokens(tmp_path, small):
    store, data = Store(tmp_path / "store"), tmp_path / "data"
    run_all([TINY, PROBE], store, jobs=1)
    for _ in range(2):  # the second replaces the first
        retrain.export(store, data, seconds=12.3)
    assert sorted(path.name for path in data.iterdir()) == ["lens_tokens.csv", "records"]
    origin = json.loads((data / "records" / "origin.json").read_text())
    names = {f"{record_key(run)}.json" for run in (TINY, PROBE)}
    assert {path.name for path in (data / "records").iterdir()} == names | {"origin.json"}
    assert origin["sha256"].keys() == names | {"lens_tokens.csv"} and origin["seconds"] == 12
    assert all(sha256(data / "records" / name) == origin["sha256"][name] for name in names)
    assert set(origin["seconds_of_records"]) == {record_key(run) for run in (TINY, PROBE)}
    released = Store(tmp_path / "other", data / "records")
    assert released.get(record_key(TINY)).document == store.get(record_key(TINY)).document
    tokens = pd.read_csv(data / "lens_tokens.csv")
    assert list(tokens)[:8] == ["seed", "step", "update", "problem", "response", "row", "position", "token"]
    assert list(tokens)[8:] == [
        *("probability", "entropy", "discriminator", "centred", "advantage", "ratio", "predicted", "measured")
    ]
    assert set(tokens["update"]) == {0, 1} and set(tokens["seed"]) == {0}
    first = tokens.iloc[0]
    assert first.response[first.position] == first.token and first.problem.endswith(":")


def test_a_release_with_a_record_missing_leaves_the_old_one(tmp_path, small):
    store, data = Store(tmp_path / "store"), tmp_path / "data"
    run_all([TINY], store, jobs=1)
    (data / "records").mkdir(parents=True)
    (data / "records" / "origin.json").write_text("old")
    with pytest.raises(StoreError, match="no record"):
        retrain.export(store, data, seconds=None)
    assert [path.name for path in data.iterdir()] == ["records"]
    assert (data / "records" / "origin.json").read_text() == "old"


def test_missing_records_are_added_and_the_others_left_alone(tmp_path, small, monkeypatch):
    store, data = Store(tmp_path / "store"), tmp_path / "data"
    run_all([TINY, PROBE], store, jobs=1)
    retrain.export(store, data, seconds=1.0)
    before = json.loads((data / "records" / "origin.json").read_text())
    new = TINY.model_copy(update={"seed": 1})
    monkeypatch.setattr(comparisons, "all_runs", lambda: [TINY, PROBE, new])
    assert retrain.add_missing(store, data, jobs=1) == 1
    assert retrain.add_missing(store, data, jobs=1) == 0
    origin = json.loads((data / "records" / "origin.json").read_text())
    name = f"{record_key(new)}.json"
    assert origin["sha256"] == before["sha256"] | {name: sha256(data / "records" / name)}
    assert origin["seconds"] == before["seconds"] and origin["added"][0]["records"] == [record_key(new)]
    assert Store(tmp_path / "other", data / "records").get(record_key(new)).document["config"]["seed"] == 1


def test_a_store_with_records_is_not_taken_for_nothing(tmp_path, small, monkeypatch, capsys):
    (tmp_path / "something").write_text("")
    monkeypatch.setattr("sys.argv", ["retrain", "--store", str(tmp_path), "--data", str(tmp_path / "data")])
    with pytest.raises(SystemExit):
        retrain.main()
    assert "is not empty" in capsys.readouterr().err and not (tmp_path / "data").exists()


@pytest.mark.retrain
@pytest.mark.timeout(3000)
def test_the_main_claims_hold_after_training_from_nothing(tmp_path):
    """GRPO, Clip_B and the random mask with three seeds, nothing committed used."""
    runs = results.compared(seeds=(0, 1, 2), arms=("GRPO", "Clip_B", "random mask"))
    table = tables.evaluation_table(comparisons.records_of(runs, Store(tmp_path)))
    verdicts = [
        results.grpo_collapses(table),
        results.keeps_diversity(table, "Clip_B"),
        results.beats_random_mask(table, "Clip_B"),
    ]
    for holds, line in verdicts:
        print(line)
        assert holds, line
