"""The benchmark compares ways that compute the same, and its committed results are complete."""

import json

import pytest
import torch
from torch.testing import assert_close

from companion.benches import statistics_bench
from companion.benches.peak_memory import peak_memory
from companion.benches.statistics_bench import CASES, WAYS, Case, inputs, table, ways
from companion.provenance import ROOT

NEEDS_TRL = {"TRL", "TRL's fused head"}
DATA = ROOT / "data" / "statistics_bench.json"


@pytest.mark.parametrize("source", WAYS)
def test_all_ways_give_the_same_log_probabilities_and_gradients(source):
    case = Case(source, 60, 7, backward=True)
    results = {}
    for way in set(ways(case)) - NEEDS_TRL:
        arguments = inputs(case)
        log_prob = WAYS[source][way](*arguments)
        results[way] = [log_prob.detach(), *torch.autograd.grad(log_prob.sum(), arguments[:-1])]
    assert len(results) >= 3
    reference = results.popitem()[1]
    for values in results.values():
        for a, b in zip(values, reference, strict=True):
            assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_times_and_memory_of_a_small_case(monkeypatch):
    monkeypatch.setattr(statistics_bench, "ways", lambda case: sorted(set(ways(case)) - NEEDS_TRL))
    for case in (Case("logits", 50, 4), Case("hidden states", 50, 4, backward=True)):
        seconds = statistics_bench.seconds_of_each(case, 2)
        assert len(seconds) >= 3
        assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())
    case = Case("logits", 3000, 400)
    extra = statistics_bench.extra_bytes(case)
    assert extra["released code"] > 2 * case.logits_bytes and extra["plain sum"] < 0.1 * case.logits_bytes


def test_errors_are_those_of_a_float32_pass():
    worst = statistics_bench.errors(Case("logits", 500, 20))
    assert set(worst) == {"log_prob", "entropy", "discriminator", "baseline", "curvature"}
    assert all(0 < error < 1e-5 for error in worst.values())


def test_peak_memory_counts_what_was_held_and_what_is_returned():
    size = 2**24
    assert peak_memory(lambda: torch.ones(size).sum()) / (4 * size) == pytest.approx(1, abs=0.05)
    assert peak_memory(lambda: torch.ones(size) + torch.ones(size)) / (4 * size) == pytest.approx(3, abs=0.05)
    assert peak_memory(lambda: None) < 2**20


def test_the_committed_results_are_those_of_the_cases():
    document = json.loads(DATA.read_text())
    rows = document["rows"]
    measured = [(row["source"], row["vocabulary"], row["tokens"], row["backward"], row["way"]) for row in rows]
    assert measured == [(c.source, c.vocabulary, c.tokens, c.backward, way) for c in CASES for way in ways(c)]
    assert document["git"]["dirty"] is False and document["threads"] == 2
    first = rows[: len(ways(CASES[0]))]
    assert table(first).count("\n") == len(first) + 2
