"""The task, and one run of the training on the small policy in place of the language model."""

import json
import shutil
import sys

import pytest
import torch

from companion.laboratory.policies import WarmStart, build_policy, character_tokenizer
from companion.language_models import arithmetic, real_training
from companion.language_models.arithmetic import Problem
from companion.language_models.real_training import (
    FORMATS_NAME,
    Formats,
    RealTraining,
    measure_formats,
    name_of,
    read,
    read_runs,
    run,
    write,
)
from companion.provenance import ROOT
from companion.puzzles.gym import task_module
from companion.record import read_record


@pytest.mark.parametrize(
    ("value", "right", "wrong"),
    [
        (
            59,
            (
                "59",
                " 59, since",
                "59.",
                "59\n60",
                "59: 5 tens",
                "59) or 60",
                "$59",
                "059",
                "59.0",
                "59,\n9",
                "59 - since",
            ),
            (
                *(" 5 9", "the sum", "", "60 or 59", "-59", "−59", ".59", "590", "5959"),
                *("59.9", "59,000", "59/2", "59:30", "59^2", "59%", "59abc", "59e3", "59²", "59/59", "59.9 or 59"),
                *("59 000", "59 / 2", "59 %", "59 * 2", "59×1", "59-60", "59–60", "x59", "²59"),
            ),
        ),
        (-2, (" -2", "−2.", "–2"), (" 2", "-2.5", "-20", "0-2")),
        (0, ("0", "-0", "000."), ("0.5", ".0.1", "0x1")),
    ],
)
def test_the_first_number_of_a_response_counts(value, right, wrong):
    problem = Problem("", value)
    assert [text for text in right if not arithmetic.is_correct(problem, text)] == []
    assert [text for text in wrong if arithmetic.is_correct(problem, text)] == []


def test_numbers_have_any_length():
    for text in ("5" * 5000, "59" + "0" * 5000, "59." + "0" * 5000 + "1"):
        assert not arithmetic.is_correct(Problem("34 + 25", 59), text)
    assert arithmetic.is_correct(Problem("34 + 25", 59), "0" * 5000 + "59")


@pytest.mark.parametrize("task", arithmetic.TASKS)
def test_splits_are_fixed_disjoint_and_right(task):
    training, test = arithmetic.split(task)
    assert len(test) == 64 and not set(training) & set(test)
    for expression, answer in [*training[:200], *test]:
        a, operator, b = expression.split()
        assert answer == int(a) + int(b) * {"+": 1, "-": -1}[operator]
    assert len(training) + 64 == 90 * 90 or task != "addition"
    with pytest.raises(ValueError, match="unknown task 'division'"):
        arithmetic.split("division")


def test_every_format_ends_where_the_answer_begins():
    for ask in arithmetic.FORMATS.values():
        assert "12 + 34" in ask("12 + 34") and ask("12 + 34").rstrip().endswith(("=", ":", "?\nAnswer:"))


def test_reasoning_gym_is_imported_without_its_other_tasks():
    before = {name for name in sys.modules if name.startswith("reasoning_gym")}
    assert task_module("arithmetic.chain_sum").ChainSumDataset
    assert "pycosat" not in sys.modules
    assert "reasoning_gym" not in {name for name in sys.modules if name.startswith("reasoning_gym")} - before


@pytest.fixture
def small(monkeypatch):
    """The small policy as the language model; its characters know digits, + and =."""
    policy = build_policy(WarmStart(width=16, layers=1))
    monkeypatch.setattr(real_training, "load_language_model", lambda name: (policy, character_tokenizer()))
    monkeypatch.setattr(real_training.arithmetic, "is_correct", lambda problem, text: len(text) % 2 == 0)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_a_run_is_recorded_with_masked_tokens_and_survives_a_round_trip(small, tmp_path):
    config = RealTraining(
        arm="Clip_B", steps=4, problems=4, group_size=4, format="bare", samples=2, test_problems=3, updates=2
    )
    document = run(config)
    series = document["series"]
    assert len(series["reward"]) == len(series["entropy"]) == 4
    assert [value is None for value in series["mean_d"]] == [False, True, False, True]  # two updates a batch
    assert document["before"]["samples"] == 2 and len(document["after"]["correct"]) == 3
    assert all(example["advantage"] < 0 and example["prompt"] for example in document["masked"])
    path = write(document, tmp_path, name=name_of(config), config=config, command="a command")
    assert path == tmp_path / "smollm2-addition" / "clip-b" / "seed-0.json"
    assert read_runs(tmp_path) == [json.loads(json.dumps(document))]
    other = config.model_copy(update={"steps": 5})
    with pytest.raises(FileExistsError, match="other settings"):
        write(document, tmp_path, name=name_of(other), config=other, command="a command")
    copy = path.with_name("seed-7.json")
    copy.write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="it is the record smollm2-addition/clip-b/seed-0"):
        read_runs(tmp_path)
    copy.unlink()
    path.write_text(path.read_text().replace('"Clip_B"', '"Clip_V"'))
    with pytest.raises(ValueError, match="damaged: its content does not match its checksum"):
        read_runs(tmp_path)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_a_run_of_the_last_layer_leaves_all_else_as_it_was(small, monkeypatch):
    policy = build_policy(WarmStart(width=16, layers=2))
    monkeypatch.setattr(real_training, "load_language_model", lambda name: (policy, character_tokenizer()))
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    run(RealTraining(arm="GRPO", steps=2, problems=4, group_size=4, samples=1, test_problems=1), layers=1)
    changed = {name for name, value in policy.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("model.layers.1.") for name in changed)


def test_ways_of_asking_are_measured_one_by_one(small, tmp_path):
    config = Formats(problems=3, samples=2)
    found = measure_formats(config)
    assert tuple(found) == arithmetic.TASKS
    for by_format in found.values():
        assert by_format.keys() == arithmetic.FORMATS.keys()
        assert all(f["samples"] == 2 and len(f["correct"]) == 3 for f in by_format.values())
    write(found, tmp_path, name=FORMATS_NAME, config=config, command="a command")
    assert read(tmp_path, FORMATS_NAME) == {"config": config.model_dump()} | found


def test_runs_that_are_missing_beside_others_are_named(tmp_path):
    assert len(read_runs(ROOT / "data" / "runs", complete=True)) == 30
    shutil.copytree(ROOT / "data" / "runs", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("results"))
    (tmp_path / "smollm2-chain-sum" / "clip-b" / "seed-1.json").unlink()
    assert len(read_runs(tmp_path)) == 29
    with pytest.raises(ValueError, match="chain_sum, Clip_B, seed 1"):
        read_runs(tmp_path, complete=True)
    shutil.rmtree(tmp_path / "smollm2-chain-sum")
    with pytest.raises(ValueError, match="chain_sum, GRPO, seed 0"):
        read_runs(tmp_path, complete=True)
    with pytest.raises(ValueError, match=r"there is no record .*make real does"):
        real_training.read(tmp_path / "nowhere", real_training.FORMATS_NAME)


def test_the_records_were_made_by_one_commit_on_one_machine_with_the_defaults():
    files = sorted((ROOT / "data" / "runs").glob("smollm2-*/*/seed-*.json"))
    made = [read_record(path)[0].made_by for path in files]
    assert len({m["commit"] for m in made}) == 1 and not any(m["uncommitted_changes"] for m in made)
    documents = read_runs(ROOT / "data" / "runs")
    assert len({document["device"] for document in documents}) == 1
    for document in documents:
        varied = {name: document["config"][name] for name in ("task", "arm", "seed")}
        assert RealTraining(**document["config"]) == RealTraining(**varied)


def test_an_empty_folder_says_how_to_fill_it(tmp_path):
    with pytest.raises(ValueError, match="make them with"):
        read_runs(tmp_path)
