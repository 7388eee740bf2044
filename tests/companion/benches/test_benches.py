"""The benchmarks compare ways that compute the same, and their committed results are complete."""

import json
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from companion.benches import bench, clipping_bench, growth_bench, profile_bench, statistics_bench, step_bench
from companion.benches.peak_memory import peak_memory
from companion.benches.statistics_bench import CASES
from companion.benches.ways import WAYS, Case, call, inputs, ways
from companion.laboratory.policies import build_policy
from companion.processes import in_fresh_process
from companion.provenance import ROOT

DATA = ROOT / "data" / "bench.json"


@pytest.mark.parametrize("source", WAYS)
def test_all_ways_give_the_same_results_and_gradients(source):
    case = Case(source, 60, 16, 24, backward=True)
    results = {}
    for way in ways(case):
        given = inputs(case)
        with torch.compiler.set_stance(
            "force_eager"
        ):  # Liger compiles its loss, which takes longer than all these tests
            result = WAYS[source][way](given)
        results[way] = [result.detach(), *torch.autograd.grad(result.sum(), given.floats)]
    assert len(results) >= 4
    reference = results.popitem()[1]
    for values in results.values():
        for a, b in zip(values, reference, strict=True):
            assert_close(a, b, rtol=1e-5, atol=1e-5 if source == "logits" else 1e-6)


def test_a_way_whose_package_is_missing_is_left_out(monkeypatch):
    monkeypatch.setattr("companion.benches.ways.util.find_spec", lambda name: None)
    assert ways(Case("logits", 9)) == [
        "one pass",
        "one pass, eager",
        "released code",
        "log_softmax and gather",
        "plain sum",
    ]


def test_a_call_leaves_no_gradient():
    case = Case("loss", 60, 16, 24, backward=True)
    given = inputs(case)
    call("linear_grpo_loss", case, given)
    assert all(x.requires_grad and x.grad is None for x in given.floats)


def test_times_and_memory_of_a_small_case():
    for case in (Case("logits", 50, 8), Case("loss", 50, 8, 24, backward=True)):
        with torch.compiler.set_stance("force_eager"):
            seconds = statistics_bench.seconds_of_each(case, 2)
        assert len(seconds) >= 4
        assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())
    case = Case("logits", 3000, 400)
    extra = statistics_bench.extra_bytes(case)
    assert extra["released code"] > 2 * case.logits_bytes and extra["plain sum"] < 0.1 * case.logits_bytes


def test_ratios_are_taken_within_rounds(monkeypatch):
    seconds = {"one pass": [1.0, 2.0, 4.0], "plain sum": [3.0, 2.0, 4.0]}
    answers = iter([seconds, {"one pass": 400, "plain sum": 0}])
    monkeypatch.setattr(statistics_bench, "in_fresh_process", lambda *_, **__: next(answers))
    ours, other = statistics_bench.measure(Case("logits", 10, 10), rounds=3, threads=1)
    assert ours["milliseconds"] == 2000 and ours["times_ours"] == ours["memory"] == 1
    assert (other["times_ours_least"], other["times_ours"], other["times_ours_most"]) == (1, 1, 3)
    text = statistics_bench.table([ours, other])
    assert text.startswith("statistics from logits: 10 tokens, vocabulary 10, forward\n")
    assert text.splitlines()[-1].split() == ["plain", "sum", "3000.0", "1.00", "(1.00,", "3.00)", "0.000"]


def test_errors_are_those_of_a_float32_pass():
    worst = statistics_bench.errors(Case("logits", 500, 20))
    assert set(worst) == {"log_prob", "entropy", "discriminator", "baseline", "curvature"}
    assert all(0 < error < 1e-5 for error in worst.values())
    of_gradients = statistics_bench.gradient_errors(Case("loss", 500, 16, 24, backward=True))
    assert set(of_gradients) == {"hidden", "weight"} and all(0 < error < 1e-5 for error in of_gradients.values())


def test_a_slope_of_one_is_proportional_cost():
    rows = [
        {"what": "x", "axis": axis, "size": n, "milliseconds": 3 * n**power, "megabytes": 7}
        for axis, power in (("linear", 1), ("square", 2))
        for n in (2, 4, 8)
    ]
    found = growth_bench.slopes(rows)
    assert found["x", "linear"] == pytest.approx((1, 0)) and found["x", "square"] == pytest.approx((2, 0))
    assert "x, square" in growth_bench.table(rows) and "12, 48, 192" in growth_bench.table(rows)


def test_cost_of_a_small_case_and_step():
    small = growth_bench.STEP.model_copy(update={"prompts": 2, "group_size": 2})
    for case in (replace(growth_bench.LOSS, vocabulary=50, tokens=8), small):
        seconds, extra = growth_bench.cost(case, 2)
        assert seconds > 0 and extra >= 0


def test_parts_of_a_profile_are_shares_of_its_time():
    weights = build_policy(step_bench.CONFIG.start).state_dict()
    job = profile_bench.training(weights)["5 batches of 64 x 8, one update"]
    parts, operations = profile_bench._parts(job), profile_bench._operations(job)
    assert sum(parts.values()) == pytest.approx(1) and sum(operations.values()) == pytest.approx(1)
    assert {"sampling", "scoring", "statistics, advantages"} < parts.keys()
    assert parts["sampling"] > 0.05 and -0.01 < parts["rest"] < 0.3
    assert min(operations.values()) > 0


TINY = clipping_bench.Sizes(responses=4, tokens=5, vocabulary=80, width=16, layers=1)
OF_TRL = pytest.mark.filterwarnings(
    "ignore:.*torch.distributed.*:UserWarning",
    "ignore:.*gradient_checkpointing.*:FutureWarning",  # its own use of transformers
)


@OF_TRL
@pytest.mark.parametrize(("updates", "scored"), [(1, 0), (2, 1)])
def test_trl_scores_what_it_sampled_where_the_case_says_so(tmp_path, updates, scored):
    """And clipping adds one pass more, whether or not."""
    for side, passes in {"TRL": 0, "Clip_V": 1}.items():
        trainer = clipping_bench.build(side, updates, TINY, str(tmp_path))
        calls = clipping_bench.watch(trainer, "_get_per_token_logps_and_entropies", clipping_bench.seconds)
        trainer.train()
        assert len(calls) == scored + passes + updates  # one for each loss


@OF_TRL
def test_what_is_added_is_a_part_of_the_step_of_either_method():
    found = clipping_bench.times(2, TINY, 2)
    assert {side: [*parts] for side, parts in found.items()} == {
        "TRL": ["step"],
        "Clip_B": ["step", "added"],
        "Clip_V": ["step", "added"],
    }
    for parts in found.values():
        assert all(len(values) == 2 for values in parts.values())
        assert all(0 < part < step for part, step in zip(parts.get("added", []), parts["step"]))
    # Logits of 67 MB stand clear of what the allocator holds by chance, about 10 MB.
    wide = clipping_bench.Sizes(responses=4, tokens=64, vocabulary=65_536, width=16, layers=1)
    peak = clipping_bench.peaks("Clip_B", 1, wide)
    logits = 4 * wide.responses * wide.tokens * wide.vocabulary
    assert peak["added"] < logits < 2 * peak["step"]


def test_what_clipping_adds_is_compared_with_the_step_of_the_same_turn(monkeypatch):
    spent = {
        "TRL": {"step": [1.0, 2.0, 4.0]},
        "Clip_B": {"step": [1.5, 2.5, 6.0], "added": [0.5, 0.5, 2.0]},
    }
    answers = {clipping_bench.times: spent, clipping_bench.peaks: {"step": 3_000_000, "added": 1_000_000}}
    monkeypatch.setattr(clipping_bench, "in_fresh_process", lambda function, *_, **__: answers[function])
    rows = clipping_bench.measure(rounds=3, threads=1, sizes=TINY)
    assert [(row["updates"], row["side"], row["part"]) for row in rows[:3]] == [
        (1, "TRL", "step"),
        (1, "Clip_B", "step"),
        (1, "Clip_B", "added"),
    ]
    assert rows[3]["updates"] == 2 and len(rows) == 6
    lines = clipping_bench.table(rows).splitlines()
    assert lines[0].startswith("1 update a batch; TRL scores no old") and "4 responses x 5 tokens" in lines[0]
    assert lines[3].split() == ["step,", "Clip_B", "2500.0", "1.50", "(1.25,", "1.50)", "3.0"]
    assert lines[4].split() == ["of", "it", "what", "is", "added", "500.0", "0.50", "(0.25,", "0.50)", "1.0"]
    assert lines[6].startswith("2 updates a batch; TRL scores old")


def fail_at(value):
    raise ValueError(f"no {value}")


def threads_here():
    return torch.get_num_threads()


def test_a_fresh_process_has_the_threads_it_was_given_and_raises_what_was_raised():
    assert in_fresh_process(threads_here, threads=3) == 3
    with pytest.raises(ValueError, match="no 7"):
        in_fresh_process(fail_at, 7, threads=1)


def test_sides_that_learn_differently_are_not_compared(monkeypatch):
    rewards = {"ours": 0.1, "TRL": 0.3}
    monkeypatch.setattr(step_bench, "in_fresh_process", lambda _, name, *__, **___: (1.0, rewards[name]))
    with pytest.raises(RuntimeError, match="do not learn alike"):
        step_bench.measure({}, rounds=2, warm_up=1, steps=1)


def test_peak_memory_counts_what_was_held_and_what_is_returned():
    size = 2**24
    assert peak_memory(lambda: torch.ones(size).sum()) / (4 * size) == pytest.approx(1, abs=0.05)
    assert peak_memory(lambda: torch.ones(size) + torch.ones(size)) / (4 * size) == pytest.approx(3, abs=0.05)
    assert peak_memory(lambda: None) < 2**20


def test_a_part_is_measured_alone_and_the_others_stay(tmp_path, monkeypatch, capsys):
    output = tmp_path / "bench.json"
    arguments = ["bench", "--output", str(output), "--threads", "2", "--rounds", "5", "--only", "growth"]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        bench.main()
    assert "leave out --only" in capsys.readouterr().err
    before = json.loads(DATA.read_text(encoding="utf-8"))
    output.write_text(json.dumps(before))
    anew = [row | {"milliseconds": 2 * row["milliseconds"]} for row in before["growth"]]
    monkeypatch.setattr(bench, "measure", lambda part, *_, **__: {"growth": anew}[part])
    bench.main()
    after = json.loads(output.read_text())
    assert after["growth"] == anew and {k: x for k, x in after.items() if before[k] == x}.keys() == before.keys() - {
        "growth",
        "made_by",
    }
    assert {part for part, made in after["made_by"].items() if made != before["made_by"][part]} == {"growth"}
    assert "How cost grows" in capsys.readouterr().out


@pytest.fixture(scope="module")
def committed():
    return json.loads(DATA.read_text(encoding="utf-8"))


def test_the_committed_results_are_those_of_the_cases(committed):
    measured = [(statistics_bench.case_of(row), row["way"]) for row in committed["ways"]]
    wanted = ((case, way) for case in CASES for way in WAYS[case.source])
    assert measured == [(case, way) for case, way in wanted if way != "plain sum" or not case.backward]
    assert [(row["what"], row["axis"], row["size"]) for row in committed["growth"]] == [
        (*place, size) for place, (sizes, _) in growth_bench.AXES.items() for size in sizes
    ]
    assert [row["threads"] for row in committed["steps"]] == [1, 2] and len(committed["profile"]) == 5
    assert set(committed["made_by"]) == set(bench.PARTS) <= set(committed)
    assert not any(made["uncommitted_changes"] for made in committed["made_by"].values())
    assert committed["threads"] == 2 and committed["rounds"] >= 5


def test_nothing_grows_much_faster_than_its_size(committed):
    for place, (of_time, of_memory) in growth_bench.slopes(committed["growth"]).items():
        assert of_time < 1.15 and of_memory < 1.15, (place, of_time, of_memory)


def test_the_committed_costs_of_clipping_are_those_of_the_cases(committed):
    places = [(row["updates"], row["side"], row["part"]) for row in committed["clipping"]]
    parts = {side: ("step",) if side == "TRL" else ("step", "added") for side in clipping_bench.SIDES}
    assert places == [(n, side, part) for n in clipping_bench.CASES for side, some in parts.items() for part in some]
