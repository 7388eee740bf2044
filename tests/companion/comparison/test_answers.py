"""The planned families of tests and the checks, on made-up endpoints: what they are for holds, all else fails."""

import numpy as np
import pandas as pd
import pytest

from companion.comparison import answers, families
from companion.comparison.fair_tables import FIRST_PAIRS, OTHER_PAIRS
from companion.record import Record
from companion.runs import fair
from companion.runs.plan import Choices, checksum, plan

FEW, MANY = plan()["common"]["final_seeds"], plan()["common"]["final_seeds"] + plan()["common"]["more_seeds"]
CHOSEN = Choices(
    checksum(),
    rate=1e-4,
    batches=384,
    strengths={"Clip_B": 2.0, "Clip_V": 3.0, "entropy bonus": 0.1},
    free={"average with the start": 0.3, "lower rate": 5e-5},
    targets=(0.3, 0.4),
    shares=(0.1, 0.2),
)
FREE = "average with the start 0.3"
MASKS = [mask for _, mask in answers.MASKS]


def rows(arm, *, seeds=FEW, average=0.5, passed=0.8, noise=0.005, sizes=(3, 4), **more):
    """Endpoints of an arm: levels that differ by seed, alike for all arms, and a little noise."""
    rng = np.random.default_rng(sum(map(ord, arm)))
    return [
        {"arm": arm, "seed": seed, "size": size, "entropy": 0.2, "polarization": 0.6}
        | {"avg": average + 0.01 * (seed % 5) + rng.normal(0, noise)}
        | {"pass": passed - 0.01 * (seed % 5) + rng.normal(0, noise)}
        | more
        for seed in seeds
        for size in sizes
    ]


def table(*arms):
    return pd.DataFrame([row for some in arms for row in some])


def test_question_1_has_eight_tests_with_ten_seeds():
    data = table(rows("GRPO", seeds=MANY), rows("Clip_B", seeds=MANY, passed=0.9), rows("Clip_V", seeds=MANY))
    found = answers.in_the_papers_regime(data)
    assert len(found) == 8 and set(found["seeds"]) == {10} and set(found["size"]) == {3, 4}
    assert families.verdict(found, "Clip_B", "GRPO", 3) == "beats"
    assert families.verdict(found, "Clip_V", "GRPO", 3) == "alike"


def test_question_2_compares_with_the_best_free_rival():
    data = table(*(rows(arm, seeds=MANY, passed=x) for arm, x in (("Clip_B", 0.8), ("Clip_V", 0.7), (FREE, 0.8))))
    found = answers.against_what_is_free(data, CHOSEN)
    assert len(found) == 8 and set(found["reference"]) == {FREE}
    assert families.verdict(found, "Clip_V", FREE, 4) == "loses"


def test_a_loss_is_counted_in_each_case_in_which_it_stays_clear_without_a_seed():
    arms = [("GRPO", 0.8), ("Clip_B", 0.8), ("Clip_V", 0.7), (FREE, 0.8)]
    data = table(*(rows(arm, seeds=MANY, passed=passed) for arm, passed in arms))
    found = answers.clear_without(data, CHOSEN)
    assert found.to_dict() == {("Clip_B", 3): 0, ("Clip_B", 4): 0, ("Clip_V", 3): 10, ("Clip_V", 4): 10}


@pytest.mark.parametrize(
    ("ask", "pairs"),
    [
        (answers.against_masks, answers.MASKS),
        (answers.others_against_grpo, answers.OTHERS),
        (answers.in_the_stale_regime, answers.STALE),
    ],
)
def test_the_other_families_are_those_of_the_plan(ask, pairs):
    arms = dict.fromkeys(arm for pair in pairs for arm in pair)
    found = ask(table(*(rows(arm, seeds=MANY if arm == "GRPO" else FEW) for arm in arms)))
    assert len(found) == 2 * len(pairs) == (10 if pairs == answers.STALE else 8)
    assert set(found["seeds"]) == {5} and set(found["size"]) == {3}


def free_lines(*, slope=-0.5, kinds=answers.LINES):
    """Free settings of every kind on a line through GRPO's end: Pass@32 rises where Avg@32 falls."""
    own = pd.DataFrame(rows("GRPO", noise=0))
    found = [
        own.assign(**{"kind": kind, "arm": f"{kind} {x}", "avg": own["avg"] - x, "pass": own["pass"] - slope * x})
        for kind in kinds
        for x in (0.1, 0.2, 0.3)
    ]
    return pd.concat(found, ignore_index=True)


def strengths(**changed):
    """Every strength of both methods on the free lines but for what is changed."""
    arms = [rows("GRPO", noise=0)]
    for method in answers.METHODS:
        for number, x in enumerate(plan()["strengths"][method]):
            arm = method if x == CHOSEN.strengths[method] else f"{method} {x:g}"
            place = {"average": 0.5 - 0.05 * number, "passed": 0.8 + 0.025 * number, "noise": 0.001}
            arms.append(rows(arm, **(place | changed.get(arm.replace(" ", "_").replace(".", "_"), {}))))
    return table(*arms)


def test_at_the_same_average_every_strength_meets_every_line():
    found = answers.at_the_same_average(
        strengths(Clip_B={"average": 0.4, "passed": 0.95}), free_lines(), CHOSEN, size=3
    )
    assert len(found) == 30 and found["holm"].tolist() == families.holm(found["p"]).tolist()
    own = found[(found["method"] == "Clip_B") & (found["strength"] == 2.0)]
    assert own["mean"].tolist() == pytest.approx([0.1] * 3, abs=0.003) and (own["holm"] < 0.05).all()
    others = found[(found["method"] != "Clip_B") & (found["seeds"] == 5)]
    assert not others.empty and (others["mean"].abs() < 0.003).all()


def test_at_the_same_average_a_strength_beyond_the_line_counts_as_undecided():
    found = answers.at_the_same_average(strengths(Clip_B={"average": 0.1}), free_lines(), CHOSEN, size=3)
    own = found[(found["method"] == "Clip_B") & (found["strength"] == 2.0)]
    assert own["seeds"].tolist() == [0] * 3 and own["p"].tolist() == [1] * 3 and own["mean"].isna().all()


def held_table(off=0.0, **others):
    names = [*plan()["equal_entropy"]["statistics"], fair.BONUS]
    return pd.DataFrame(
        [
            {"name": name, "target": target, "seed": seed, "off": others.get(name, off)}
            for name in names
            for target in CHOSEN.targets
            for seed in FEW
        ]
    )


def controlled(**passed):
    names = [*plan()["equal_entropy"]["statistics"], fair.BONUS]
    return table(
        *(
            rows(
                f"{name} at {target:g}",
                seeds=MANY if name in ("D", "p", "random") else FEW,
                passed=passed.get(name, 0.8),
            )
            for name in names
            for target in CHOSEN.targets
        )
    )


def test_question_3_has_twelve_tests_and_tells_tokens_apart_where_they_differ():
    found = answers.which_tokens(controlled(D=0.9), held_table(), CHOSEN, FIRST_PAIRS)
    assert len(found) == 12 and set(found["seeds"]) == {10}
    assert families.verdict(found, "D at 0.3", "random at 0.3", 3) == "beats"
    assert families.verdict(found, "p at 0.3", "random at 0.3", 3) == "alike"
    more = answers.which_tokens(controlled(), held_table(), CHOSEN, OTHER_PAIRS)
    assert len(more) == 12 and set(more["seeds"]) == {5}


def test_an_arm_that_does_not_hold_is_not_compared_and_its_tests_still_count():
    every = answers.which_tokens(controlled(), held_table(), CHOSEN, FIRST_PAIRS)
    some = answers.which_tokens(controlled(), held_table(p=0.05), CHOSEN, FIRST_PAIRS)
    assert len(some) == 4 and set(some["arm"]) == {"D at 0.3", "D at 0.4"}
    assert some["holm"].min() == pytest.approx(min(1, 12 * some["p"].min()))
    assert every["holm"].min() == pytest.approx(min(1, 12 * every["p"].min()))


def against_free(free=0.9, average=0.5, harder=0.9):
    data = table(*(rows(arm, seeds=MANY) for arm in answers.METHODS), rows(FREE, seeds=MANY, average=average))
    ours = data["arm"] == FREE
    data.loc[ours, "pass"] += data.loc[ours, "size"].map({3: free, 4: harder}) - 0.8
    return answers.free_leads(answers.against_what_is_free(data, CHOSEN))


def test_the_free_rival_leads_only_on_both_kinds_and_without_a_lower_average():
    holds, line = against_free()
    assert holds and f"{FREE} against Clip_B and Clip_V, 10 seeds" in line
    assert not against_free(free=0.8)[0] and not against_free(harder=0.8)[0]
    assert not against_free(free=0.7)[0] and not against_free(average=0.48)[0]


def test_targets_are_held_by_every_run_or_not():
    holding = pd.DataFrame({"off": [0.01, -0.015], "lowest": [-0.03, -0.05], "holds": [True, True]})
    holds, line = answers.targets_are_held(holding, 2)
    assert holds and "at most 0.0150 nats off" in line and "0.050 below" in line
    assert not answers.targets_are_held(holding, 3)[0]
    assert not answers.targets_are_held(holding.assign(holds=[True, False]), 2)[0]


def test_tokens_matter_only_in_that_order_and_at_both_targets():
    def asked(holding=None, **levels):
        holding = held_table() if holding is None else holding
        return answers.tokens_matter(answers.which_tokens(controlled(**levels), holding, CHOSEN, FIRST_PAIRS))

    holds, line = asked(D=0.9, p=0.85)
    assert holds and "10 seeds" in line
    assert not asked(D=0.85, p=0.9)[0] and not asked(D=0.9)[0] and not asked()[0]
    assert not asked(held_table(p=0.05), D=0.9, p=0.85)[0]  # whoever does not hold is not compared


def test_the_free_rival_leads_elsewhere_with_every_seed_or_not():
    def asked(gain, seeds=(10, 11, 12), places="ab"):
        rival = rows(FREE, seeds=seeds, noise=0)
        rival[0]["pass"] += gain - 0.1
        data = table(rows("GRPO", seeds=seeds, noise=0, passed=0.7), rival)
        return answers.free_leads_elsewhere(dict.fromkeys(places, data), FREE)

    holds, line = asked(0.02)
    assert holds and "between +0.020 and +0.100" in line
    assert not asked(-0.01)[0] and not asked(0.02, seeds=(10, 11))[0]


def start_and_grpo(**change):
    start = rows("start", seeds=MANY, average=0.2, passed=0.95, entropy=0.6, polarization=0.1)
    grpo = rows("GRPO", seeds=MANY, **({"average": 0.5, "passed": 0.8} | change))
    return table(start, grpo)


def test_grpo_collapses():
    holds, line = answers.grpo_collapses(start_and_grpo())
    assert holds and line.startswith("with 10 seeds GRPO gains 0.3") and "loses 67% of its entropy" in line


@pytest.mark.parametrize("change", [{"average": 0.35}, {"entropy": 0.3}, {"passed": 0.96}])
def test_no_collapse_no_comparison(change):
    assert not answers.grpo_collapses(start_and_grpo(**change))[0]


def curves(**last):
    most = {"start": 0.95, "GRPO": 0.8, "Clip_B": 0.9} | last
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "size": size, "k": k, "pass": x + 0.001 * seed if k == 32 else 0.1}
            for arm, x in most.items()
            for seed in FEW
            for size in (3, 4)
            for k in (1, 32)
        ]
    )


def test_the_start_keeps_most():
    holds, line = answers.start_keeps_most(curves())
    assert holds and "with 3 numbers +0.050 (+0.050 to +0.050)" in line and line.startswith("Pass@32 of the start")
    assert not answers.start_keeps_most(curves(Clip_B=0.96))[0]
    one = curves()
    one.loc[(one["arm"] == "GRPO") & (one["seed"] == FEW[0]) & (one["size"] == 4), "pass"] = 0.99
    assert not answers.start_keeps_most(one)[0]  # one seed on one kind is enough


def test_polarization():
    def of(**others):
        values = {"start": 0.1, "GRPO": 0.6, "Clip_B": 0.55, "Clip_V": 0.6} | others
        data = table(*(rows(arm, seeds=MANY) for arm in values))
        noise = np.random.default_rng(0).normal(0, 0.005, len(data))
        return data.assign(polarization=data["arm"].map(values) + noise)

    holds, line = answers.polarizes_less(of())
    assert holds and "Clip_B -0.0" in line
    for other in ({"Clip_B": 0.6}, {"start": 0.7}, {"Clip_V": 0.5}, {"Clip_V": 0.65}):
        assert not answers.polarizes_less(of(**other))[0], other


def test_arms_beside_grpo_and_beside_random():
    beside = answers.compared_with_grpo(table(rows("GRPO"), rows("x", passed=0.9)), ["GRPO", "x"])
    assert beside["quantity"].tolist() == [f"{q},\n{n} numbers" for n in (3, 4) for q in ("Avg@32", "Pass@32")]
    assert beside["mean"].tolist() == pytest.approx([0, 0.1, 0, 0.1], abs=0.01)
    against = answers.against_random(controlled(S=0.7), CHOSEN)
    assert len(against) == 24 and "random" not in set(against["arm"])
    of_s = against[(against["arm"] == "S") & against["quantity"].str.startswith("Pass@32")]
    assert of_s["mean"].tolist() == pytest.approx([-0.1] * 2, abs=0.01)


def test_places_beside_grpo_have_intervals_on_both_axes():
    (found,) = (
        answers.minus_grpo(table(rows("GRPO"), rows("x", passed=0.9, average=0.4)), {"X": ["x"]})
        .query("size == 3")
        .to_dict("records")
    )
    assert found["family"] == "X" and found["avg"] == pytest.approx(-0.1, abs=0.01)
    assert found["pass"] == pytest.approx(0.1, abs=0.01) and found["pass_low"] < found["pass"] < found["pass_high"]


def run(right):
    steps = range(0, 129, plan()["common"]["evaluate_every"])
    found = [
        {"step": step, "size": 3, "temperature": 1.0, "samples": 32, "entropy": 0.3}
        | {"correct": [0, right(step)], "distinct": [0, 1]}
        for step in steps
    ]
    return Record({"evaluations": found, "series": {}})


def test_at_equal_reward_is_where_all_arrive():
    records = {(f"{name} at {target:g}", seed): run(lambda step, pace=pace: min(32, step // pace))
               for name, pace in (("D", 4), ("random", 8)) for target in CHOSEN.targets for seed in FEW}  # fmt: skip
    found = answers.at_equal_reward(records, CHOSEN)
    assert found.loc[(0.3, "random"), "average"] == pytest.approx((128 + 112 + 96 + 80) / 4 / 8 / 64)
    assert found.loc[(0.3, "random"), "step"] == 128 and found.loc[(0.3, "D"), "step"] == 80
    assert (found.loc[(0.3, "random"), ["more", "low", "high"]] == 0).all()
    difference = found.loc[(0.3, "D"), "pass"] - found.loc[(0.3, "random"), "pass"]
    assert found.loc[(0.3, "D"), "more"] == pytest.approx(difference)


def test_elsewhere_has_the_best_free_rival_at_its_setting():
    lower = Choices(checksum(), rate=1e-4, batches=128, free={"lower rate": 5e-5})
    runs = {("GRPO 5e-05", 10): run(lambda step: 8), ("GRPO", 10): run(lambda step: step // 4)}
    assert set(answers.elsewhere(runs, lower)["arm"]) == {"GRPO", "GRPO 5e-05"}
    earlier = Choices(checksum(), rate=1e-4, batches=128, free={"earlier checkpoint": 0.5})
    found = answers.elsewhere({("GRPO", 10): runs["GRPO", 10]}, earlier).set_index("arm")["avg"]
    assert found["earlier checkpoint 0.5"] == pytest.approx((64 + 48 + 32 + 16) / 4 / 4 / 64)


def test_the_settings_are_printed_with_what_they_were_chosen_among():
    found = answers.settings(CHOSEN)
    assert found.loc["Clip_B", "chosen"] == 2.0 and found.loc["Clip_B", "among"] == plan()["strengths"]["Clip_B"]
    assert found.loc["lower rate", "among"] == [2.5e-5, 5e-5]
