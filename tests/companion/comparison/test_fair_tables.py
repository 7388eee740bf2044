"""Tables of the planned comparison, on made-up records."""

import numpy as np
import pandas as pd
import pytest

from companion.comparison import fair_tables
from companion.record import Record
from companion.runs import fair
from companion.runs.plan import Choices, checksum, plan

EVERY = plan()["common"]["evaluate_every"]
BATCHES = 192
CHOSEN = Choices(
    checksum(),
    rate=1e-4,
    batches=BATCHES,
    free={"average with the start": 0.3, "lower rate": 5e-5, "earlier checkpoint": 0.5},
    targets=(0.3, 0.4),
    shares=(0.1, 0.2),
)


def evaluation(step, right, *, size=3, entropy=0.2, **variant):
    """Of two problems, one solved `right` times of 32 and one never."""
    found = {"step": step, "size": size, "temperature": 1.0, "samples": 32, "entropy": entropy}
    return found | {"correct": [0, right], "distinct": [0, 1]} | variant


def run(right, *, variants=(), **series):
    """A run that has solved `right(step)` from the first evaluation on."""
    steps = range(0, BATCHES + 1, EVERY)
    rows = [evaluation(step, right(step), size=size) for step in steps for size in (3, 4)]
    for variant in variants:
        place = {"temperature": variant.temperature, "start_share": variant.start_share, "averaged": variant.averaged}
        entropy = 0.2 + variant.start_share
        rows += [evaluation(s, 10, size=size, entropy=entropy, **place) for s in steps[-4:] for size in (3, 4)]
    return Record({"series": series, "evaluations": rows})


@pytest.fixture(scope="module")
def finals():
    seeds = (10, 11)
    records = {("GRPO", s): run(lambda step: step // EVERY, variants=fair.variants()) for s in seeds}
    records |= {("Clip_B", s): run(lambda step: 20) for s in seeds}
    return records | {(f"GRPO {rate:g}", s): run(lambda step: 16) for rate in (2.5e-5, 5e-5) for s in seeds}


def test_free_rivals_are_made_of_grpos_own_runs(finals):
    free = fair_tables.free_endpoints(finals, CHOSEN)
    assert set(free["seed"]) == {10, 11} and set(free["size"]) == {3, 4}
    settings = free.groupby("kind")["setting"].nunique()
    assert settings.to_dict() == {
        "earlier checkpoint": 5,
        "temperature": 5,
        "average with the start": 5,
        "average of the last": 5,
        "lower rate": 2,
    }
    half = free[(free["kind"] == "earlier checkpoint") & (free["setting"] == 0.5)]
    assert half["avg"].tolist() == pytest.approx([(3 + 4 + 5 + 6) / 4 / 64] * 4)  # evaluations 3 to 6 of 12


def test_the_final_table_has_arms_and_each_free_rival_at_its_setting(finals):
    table = fair_tables.final_endpoints(finals, CHOSEN)
    assert sorted(set(table["arm"])) == [
        "Clip_B",
        "GRPO",
        "GRPO 5e-05",
        "average with the start 0.3",
        "earlier checkpoint 0.5",
    ]
    assert not table.duplicated(["arm", "seed", "size"]).any()
    assert fair_tables.best_free_arm(CHOSEN) == "average with the start 0.3"
    assert table.set_index(["arm", "seed", "size"]).loc[("Clip_B", 10, 3), "avg"] == pytest.approx(20 / 64)


def controlled(entropy, strength=0.1):
    return Record({"series": {"entropy": entropy, "strength": [strength] * len(entropy)}, "evaluations": []})


def test_who_holds_a_target_and_who_does_not():
    falling, steady = [0.6, 0.4, 0.22, 0.2], [0.6, 0.28, 0.31, 0.31]
    records = {("D at 0.3", 10): controlled(steady), ("A D at 0.3", 10): controlled(falling, 0.9)}
    records |= {("D at 0.3", 11): controlled([0.6, 0.3, 0.32, 0.321])}
    table = fair_tables.held(records).set_index(["name", "seed"])
    assert table.loc[("D", 10), "off"] == pytest.approx(0.01) and table.loc[("D", 10), "lowest"] == pytest.approx(-0.02)
    assert table["holds"].to_dict() == {("D", 10): True, ("A D", 10): False, ("D", 11): False}
    assert table.loc[("A D", 10), "strength"] == pytest.approx(0.9)


def test_pairs_are_those_of_arms_that_hold_in_the_mean():
    names = [*plan()["equal_entropy"]["statistics"], fair.BONUS]
    rows = [
        {"name": name, "target": 0.3, "seed": seed, "off": off}
        for name in names
        for seed, off in ((10, 0.03), (11, 0.05 if name == "p" else -0.03))
    ]
    table = pd.DataFrame(rows)
    assert fair_tables.holding_pairs(table, 0.3, fair_tables.FIRST_PAIRS) == [("D at 0.3", "random at 0.3")]
    assert len(fair_tables.holding_pairs(table, 0.3, fair_tables.OTHER_PAIRS)) == 3
    assert fair_tables.holding_pairs(table.assign(off=0.03), 0.3, fair_tables.FIRST_PAIRS) == []


def test_an_arm_beside_the_free_line_at_its_own_average():
    def row(arm, avg, passed, seed=10):
        return {"arm": arm, "seed": seed, "size": 3, "avg": avg, "pass": passed}

    finals = pd.DataFrame([row("GRPO", 0.5, 0.7), row("X", 0.45, 0.9), row("Y", 0.2, 0.9), row("GRPO", 0.5, 0.7, 11)])
    free = pd.DataFrame([row("a", 0.4, 0.8) | {"kind": "a"}, row("a", 0.3, 0.85) | {"kind": "a"}])
    (found,) = fair_tables.above_the_free_line(finals, free, ["X", "Y"]).to_dict("records")
    assert found == pytest.approx({"arm": "X", "kind": "a", "seed": 10, "pass": 0.9, "free": 0.75})


def test_free_rivals_at_an_entropy_are_interpolated_by_seed():
    rows = [
        {"kind": "temperature", "seed": seed, "size": 3, "entropy": h, "avg": 1 - h, "pass": 2 * h, "distinct": h}
        for seed, hs in ((10, (0.2, 0.4)), (11, (0.35, 0.4)))
        for h in hs
    ]
    (row,) = fair_tables.free_at_entropy(pd.DataFrame(rows), 0.3).to_dict("records")
    assert row == pytest.approx(
        {"kind": "temperature", "seed": 10, "size": 3, "avg": 0.7, "pass": 0.6, "distinct": 0.3}
    )


def test_passes_are_compared_where_averages_are_equal():
    slow, fast = run(lambda step: step // EVERY), run(lambda step: min(12, 2 * step // EVERY))
    found = fair_tables.at_equal_average({("slow", 10): slow, ("fast", 10): fast}, 9 / 64).set_index("arm")
    assert found["step"].to_dict() == {"slow": 11 * EVERY, "fast": 6 * EVERY}  # the means of 8 to 11 and of 6 to 12
    assert fair_tables.at_equal_average({("slow", 10): slow}, 0.5).empty


def test_training_means_are_of_the_second_half():
    columns = ("reward", "entropy", "masked_negative", "gradient_norm")
    records = {("X", s): Record({"series": {c: [9.0, 9.0, 1.0 + s, 3.0 + s] for c in columns}}) for s in (0, 1)}
    row = fair_tables.training_means(records).loc["X"]
    assert row[["reward", "entropy", "masked", "gradient_norm"]].tolist() == [2.5] * 4 and np.isnan(row["strength"])
