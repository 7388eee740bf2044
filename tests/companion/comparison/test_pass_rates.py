"""Pass@K for every K and pass rates, by hand."""

import pytest

from companion.comparison import pass_rates
from companion.record import Record
from companion.runs.plan import plan

LAST = range(16, 16 * (plan()["common"]["endpoints"] + 1), 16)


def evaluated(correct, *, step, size=3, **variant):
    place = {"step": step, "size": size, "temperature": 1.0, "samples": 4, "entropy": 0.1}
    return place | {"correct": correct, "distinct": correct} | variant


def test_pass_curves_are_means_over_the_last_evaluations_of_the_policy_itself():
    own = [evaluated([1, 4], step=0), evaluated([0, 0], step=8)]
    own += [evaluated([4, 4] if step == LAST[0] else [0, 4], step=step) for step in LAST]
    others = [
        evaluated([4, 4], step=LAST[-1], **v) for v in ({"temperature": 2.0}, {"start_share": 0.5, "averaged": 1})
    ]
    curves = pass_rates.pass_curves({("GRPO", 0): Record({"evaluations": own + others})}).set_index(["arm", "k"])[
        "pass"
    ]
    assert curves["start"].tolist() == pytest.approx([(0.25 + 1) / 2, (0.5 + 1) / 2, 1.0])
    assert curves["GRPO"].tolist() == pytest.approx([(1 + (len(LAST) - 1) * 0.5) / len(LAST)] * 3)


def test_pass_rates_count_none_all_and_what_lies_between():
    runs = [evaluated([0, 0, 1, 3, 4, 2, 0, 4], step=step) for step in LAST]
    runs += [evaluated([4] * 8, size=4, step=step) for step in LAST]
    shares = pass_rates.pass_rate_table({("a", 0): Record({"evaluations": runs})}, size=3, bins=2)
    assert dict(zip(shares.bin, shares.share)) == {"none": 3 / 8, "0": 1 / 8, "0.5": 2 / 8, "all": 2 / 8}


def run(correct):
    return Record({"evaluations": [evaluated(correct, step=step) for step in LAST]})


def test_every_problem_has_its_own_scores():
    table = pass_rates.by_problem({("a", 0): run([0, 1, 4])}, size=3)
    assert table["avg"].tolist() == [0, 0.25, 1] and table["pass"].tolist() == pytest.approx([0, 1, 1])


def test_problems_drawn_anew_widen_what_rests_on_few_of_them():
    seeds = range(8)
    base = {("GRPO", seed): run([2] * 12) for seed in seeds}
    alike = base | {("x", seed): run([3] * 12) for seed in seeds}
    one = base | {("x", seed): run([2] * 9 + [4] * 3) for seed in seeds}
    even, uneven = (
        pass_rates.with_problems_drawn(records, [("x", "GRPO")], size=3).set_index("column").loc["avg"]
        for records in (alike, one)
    )
    assert even["mean"] == even["low"] == even["high"] == 0.25
    assert uneven["mean"] == pytest.approx(0.125) and uneven["low"] < 0.05 and uneven["high"] > 0.2
