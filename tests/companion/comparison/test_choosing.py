"""The plan's rules on made-up records."""

import pandas as pd
import pytest

from companion.comparison import choosing
from companion.comparison.endpoints import endpoint, endpoints, points
from companion.record import Record
from companion.runs import fair
from companion.runs.plan import Choices, checksum, plan

SEEDS = plan()["common"]["selection_seeds"]
EVERY = plan()["common"]["evaluate_every"]


def evaluation(step, right, *, size=3, entropy=0.5, samples=32, **variant):
    """Of two problems: one is never solved, the other `right` times of 32."""
    found = {"step": step, "size": size, "temperature": 1.0, "samples": samples, "entropy": entropy}
    return found | {"correct": [0, right], "distinct": [0, min(right, 3)], "kl": 0.1} | variant


def record(*evaluations, **series):
    return Record({"series": series, "evaluations": list(evaluations)})


def steady(right, *, entropy=0.2, batches=384, start=0.7, **variant):
    """Evaluations along a run that has been where it is from the first batch on."""
    rows = [evaluation(0, 5, entropy=start)]
    return rows + [evaluation(s, right, entropy=entropy, **variant) for s in range(EVERY, batches + 1, EVERY)]


def test_an_endpoint_is_the_mean_of_the_last_four_evaluations_by_hand():
    run = record(*(evaluation(step, step) for step in range(7)), evaluation(6, 32, size=4, entropy=0.25))
    hotter = {"temperature": 1.5, "start_share": 0.0, "averaged": 1}
    run.document["evaluations"] += [evaluation(s, 2 * s, **hotter) for s in range(3, 7)]
    row = endpoint(run).loc[3]
    assert row["avg"] == pytest.approx((3 + 4 + 5 + 6) / 4 / 64)
    assert row["pass"] == 0.5 and row["distinct"] == 1.5  # a problem that was solved once is solved within 32
    assert endpoint(run, until=4).loc[3, "avg"] == pytest.approx((1 + 2 + 3 + 4) / 4 / 64)
    assert endpoint(run, temperature=1.5).loc[3, "avg"] == pytest.approx(2 * (3 + 4 + 5 + 6) / 4 / 64)
    for which in ({"until": 2}, {"temperature": 2.0}):
        with pytest.raises(ValueError, match="expected at least 4"):
            endpoint(run, **which)
    assert points(run)["kl"].iloc[0] == 0.1
    assert list(endpoints({("GRPO", 5): run})["arm"]) == ["GRPO"] * 2


def of_rates(rights, **last):
    names = [f"GRPO {rate:g}" for rate in plan()["learning_rate"]["values"]]
    return {(arm, seed): record(*steady(right, **last)) for arm, right in zip(names, rights) for seed in SEEDS}


def test_the_rate_is_the_one_with_the_highest_average_at_the_end():
    values = plan()["learning_rate"]["values"]
    assert choosing.rate_and_batches(of_rates([8, 10, 12, 16, 4])) == {"rate": values[3], "batches": 192}
    records = of_rates([8, 10, 12, 16, 4])
    for change, batches in (
        ({"entropy": 0.2 - 0.04}, 384),  # entropy still falls
        ({"entropy": 0.2 - 0.02}, 192),
        ({"right": 18}, 384),  # 2 of 64 is 0.03 more
        ({"right": 17}, 192),
    ):
        for seed in SEEDS:
            late = [evaluation(s, **{"right": 16, "entropy": 0.2} | change) for s in range(336, 385, EVERY)]
            early = [e for e in steady(16) if e["step"] < 336]
            records[f"GRPO {values[3]:g}", seed] = record(*early, *late)
        assert choosing.rate_and_batches(records) == {"rate": values[3], "batches": batches}


def test_the_best_setting_has_the_highest_pass_of_those_near_the_average():
    scores = pd.DataFrame({"avg": [0.5, 0.481, 0.479], "pass": [0.7, 0.8, 0.9]}, index=[1.0, 2.0, 3.0])
    assert choosing.best_setting(scores, 0.5) == 2.0
    assert choosing.best_setting(scores, 0.55) == 1.0  # none is near: the highest average
    assert choosing.best_setting(scores, 0.4) == 3.0


def chosen(**values):
    return Choices(checksum(), **{"rate": 2e-4, "batches": 192} | values)


def test_effects_are_nats_a_batch_at_strength_one():
    grpo = [0.7] * 8 + [0.6] * 8
    runs = {("GRPO", seed): record(entropy=grpo) for seed in SEEDS}
    runs |= {("D", seed): record(entropy=[0.7] * 8 + [0.6 + 0.115 + 0.01 * i] * 8) for i, seed in enumerate(SEEDS)}
    runs |= {(fair.BONUS, seed): record(entropy=[0.7] * 8 + [0.6 + 0.23] * 8) for seed in SEEDS}
    found = choosing.effects(runs)
    # half of the largest strength, 0.2 and 0.5, over 11.5 batches
    assert found == pytest.approx({"D": 0.12 / 0.1 / 11.5, fair.BONUS: 0.23 / 0.25 / 11.5}, rel=5e-3)


def test_strengths_and_free_rivals_follow_one_rule():
    tables = plan()["strengths"]
    runs = {}
    for seed in SEEDS:
        variants = [
            evaluation(
                s, 20 + n % 10, samples=32, temperature=v.temperature, start_share=v.start_share, averaged=v.averaged
            )
            for s in range(144, 193, EVERY)
            for n, v in enumerate(fair.variants())
        ]
        runs["GRPO", seed] = record(*steady(20, batches=192), *variants)
        for arm in (*fair.TUNED, "EntroPIC"):
            for number, strength in enumerate(tables[arm]):
                runs[f"{arm} {strength:g}", seed] = record(*steady(20 - number, batches=192))
    found = choosing.strengths(runs)
    # Pass@32 is the same for all; of those within 0.02 (one right answer of 64) the first one
    assert found == {arm: tables[arm][0] for arm in (*fair.TUNED, "EntroPIC")}
    runs_with_more = runs | {(f"Clip_B {tables['Clip_B'][1]:g}", s): record(*both(19)) for s in SEEDS}
    assert choosing.strengths(runs_with_more)["Clip_B"] == tables["Clip_B"][1]
    assert choosing.targets(runs) == (round(0.2 + 0.3 * 0.5, 2), round(0.2 + 0.6 * 0.5, 2))
    of_rate = of_rates([8, 19, 20, 20, 20])
    best = choosing.free(runs, of_rate, chosen())
    assert best["lower rate"] == plan()["learning_rate"]["values"][1] and len(best) == 5
    others = [e for e in variants if e["start_share"] != 0.2]
    runs["GRPO", SEEDS[0]] = record(*steady(20, batches=192), *others, *both(20, start_share=0.2)[1:])
    first = next(iter(choosing.free(runs, of_rate, chosen()).items()))
    assert first == ("average with the start", 0.2)


def both(right, **variant):
    """A run that solves the other problem once, too."""
    rows = steady(right, batches=192, **variant)
    return [row | {"correct": [1, right - 1], "averaged": 1, "start_share": 0.0} | variant for row in rows]


def test_the_shares_are_those_of_the_second_half():
    records = {
        (f"D at {target:g}", seed): record(strength=[1.0] * 4 + [0.1 * target] * 4)
        for target in (0.3, 0.4)
        for seed in SEEDS
    }
    assert choosing.shares(records, chosen(targets=(0.3, 0.4))) == (0.03, 0.04)
