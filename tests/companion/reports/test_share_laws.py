"""Shares by hand, laws that are found again, and wrong ones that are not."""

import tomllib

import numpy as np
import pandas as pd
import pytest

from companion.record import Record
from companion.reports import share_laws
from companion.reports.share_laws import LAWS, SHARES

SIZES = np.array([4.0, 8, 16, 32, 64, 128, 256])
PLANTED = {
    "power law": lambda x: 0.4 * x**-0.6,
    "others alike": lambda x: 1 / (5 + 0.2 * (x - 1)),
    "others at random": lambda x: 1 / (5 + 1.5 * np.sqrt(x - 1)),
    "dilution": lambda x: 0.9 / x,
    "constant": lambda x: 0.1 + 0 * x,
}


def points(share, *, noise=0.0, seeds=5):
    draw = np.random.default_rng(0)
    runs = [
        pd.DataFrame(
            {"seed": seed, "size": SIZES}
            | dict.fromkeys(SHARES, share(SIZES) * np.exp(noise * draw.standard_normal(len(SIZES))))
        )
        for seed in range(seeds)
    ]
    return pd.concat(runs, ignore_index=True)


def record():
    states = {"state": [0, 1], "theorem": [1.0, 1.0], "own": [2.0, -1.0], "response": [1.0, 0.0], "group": [-1.0, 0.0]}
    batches = {
        "state": [0, 0, 1, 1],
        "problems": [1, 4, 1, 4],
        "tokens": [10, 40, 20, 80],
        "others": [0.0, 4.0, 0.0, 3.0],
        "absolute": [8.0, 16.0, 2.0, 10.0],
        "squares": [8.0, 16.0, 1.0, 4.0],
    }
    return Record({"states": states, "batches": batches})


def test_shares_by_hand():
    table = share_laws.states_table({("3 x 96", 7): record()})
    assert table.net.tolist() == [2 / 4, 2 / 8, 1.0, 1 / 4]
    assert table.absolute_share.tolist() == [2 / 8, 2 / 16, 1 / 2, 1 / 10]
    assert table.squared.tolist() == [4 / 8, 4 / 16, 1.0, 1 / 4]
    shares = share_laws.shares_table(table).set_index("problems")
    assert shares.loc[1, ["tokens", "net", "absolute", "squared"]].tolist() == [15, 0.75, 0.375, 0.75]
    # totals 2 and -1 with the own problem alone, 6 and 2 with three more
    assert shares.signed.tolist() == pytest.approx([(4 + 1) / (4 + 1), (12 - 2) / (36 + 4)])
    assert (shares.arm == "3 x 96").all() and (shares.seed == 7).all()


def test_shares_at_a_number_of_tokens_lie_between_on_log_axes():
    shares = pd.DataFrame({"arm": "a", "seed": 0, "tokens": [10.0, 1000.0]} | {n: [0.4, 0.1] for n in SHARES})
    (row,) = share_laws.at_tokens(shares, 100.0).to_dict("records")
    assert all(row[name] == pytest.approx(0.2) for name in SHARES)
    with pytest.raises(ValueError, match="a, seed 0 has 10 to 1000 tokens, not 5000"):
        share_laws.at_tokens(shares, 5000.0)


def test_factors_are_varied_one_at_a_time():
    arms = ["3 x 24", "3 x 96", "1 x 96"]
    shares = pd.DataFrame(
        [{"arm": arm, "seed": 0, "problems": x} | dict.fromkeys(SHARES, 0.1) for arm in arms for x in (4, 64)]
    )
    points = share_laws.by_factor(shares, shares[shares.problems == 64])
    assert {name: table["size"].tolist() for name, table in points.items()} == {
        "batch": [4, 64],
        "width": [24, 96],
        "depth": [3, 1],
    }


def test_policies_are_averaged_over_seeds():
    records = {
        ("3 x 96", seed): Record({"policy": {"parameters": [10], "reward": [0.2 * seed], "entropy": [0.5]}})
        for seed in (1, 2)
    }
    assert share_laws.policies_table(records).loc["3 x 96"].tolist() == pytest.approx([10, 0.3, 0.5])


def test_a_planted_exponent_is_found_and_another_is_not():
    table = share_laws.exponents(points(PLANTED["power law"], noise=0.1)).set_index("share")
    assert (table.seeds == 5).all()
    assert ((table.low < -0.6) & (table.high > -0.6)).all() and ((table.high - table.low) < 0.2).all()
    assert (table.low > -1).all() and (table.high < -0.5).all()  # neither dilution nor independent signs
    exact = share_laws.exponents(points(PLANTED["power law"]))
    np.testing.assert_allclose(exact["mean"], -0.6, atol=1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_a_law_predicts_the_largest_batch_and_its_wrong_twins_do_not(law):
    table = share_laws.held_out(points(PLANTED[law]), list(LAWS)).set_index(["share", "law"]).error.unstack()
    nested = {"dilution": ["power law", "others alike"], "constant": ["power law", "others alike", "others at random"]}
    assert (table[law] < 1e-5).all()
    assert (table.drop(columns=[law, *nested.get(law, [])]) > 0.02).all(axis=None)


def test_what_was_held_out_is_not_fitted():
    changed = points(PLANTED["power law"])
    for name in SHARES:
        changed[name] = changed[name].where(changed["size"] < SIZES[-1], changed[name] * np.exp(0.5))
    table = share_laws.held_out(changed, ["power law"])
    np.testing.assert_allclose(table["mean"], -0.5, atol=1e-6)
    np.testing.assert_allclose(table.error, 0.5, atol=1e-6)


def test_what_is_drawn_by_hand():
    run = pd.DataFrame({"seed": 0, "size": [1.0, 10.0, 100.0]} | {n: [0.5, 0.05, 0.1] for n in SHARES})
    twice = pd.concat([run, run.assign(seed=1, net=4 * run.net)])
    table = share_laws.drawn(twice, {"net": "power law", "squared": "constant"}).set_index(["share", "size"])
    np.testing.assert_allclose(table.loc["net", "mean"], [1.0, 0.1, 0.2])
    np.testing.assert_allclose(table.loc["net", "curve"], [1.0, 0.1, 0.01], rtol=1e-5)  # without the largest
    np.testing.assert_allclose(table.loc["squared", "curve"], [np.sqrt(0.025)] * 3, rtol=1e-5)
    spread = table.loc["net"].high / table.loc["net"].low
    np.testing.assert_allclose(spread, np.exp(2 * 12.706 * np.log(4) / 2), rtol=1e-3)  # t of one degree of freedom


def test_local_exponents_by_hand():
    table = share_laws.local_exponents(points(PLANTED["dilution"]))
    assert len(table) == 3 * 6 and set(table["size"]) == set(SIZES[1:])
    np.testing.assert_allclose(table["mean"], -1)
    steeper = share_laws.local_exponents(points(PLANTED["others alike"]))
    assert (np.diff(steeper[steeper.share == "net"]["mean"]) < 0).all()


def test_a_random_kernel_has_the_share_of_its_features():
    draw = np.random.default_rng(0)
    features, tokens = 20, 100
    f = draw.standard_normal((400, tokens, features))
    f /= np.linalg.norm(f, axis=-1, keepdims=True)
    squares = ((f @ f.transpose(0, 2, 1))[:, 0] ** 2).sum(-1)  # own^2 is 1
    expected = share_laws.random_kernel_share(features, tokens)
    assert expected == 20 / 119
    assert 1 / squares.mean() == pytest.approx(expected, rel=0.01)
    assert share_laws.features_of(expected, tokens) == pytest.approx(features)
    assert share_laws.random_kernel_share(features, 1) == 1


ALIKE = dict.fromkeys(SHARES, "others alike")


def decided(share):
    data = points(share, noise=0.02)
    return share_laws.exponents(data), share_laws.held_out(data, [*LAWS]), share_laws.local_exponents(data)


def test_a_share_falls_by_its_law_and_the_wrong_twins_do_not():
    table, errors, local = decided(PLANTED["others alike"])
    holds, line = share_laws.falls_by_law(table, errors, ALIKE)
    assert holds and "(dilution)" in line
    assert share_laws.steepens(local, SHARES)[0]
    table, errors, _ = decided(PLANTED["power law"])
    assert not share_laws.falls_by_law(table, errors, ALIKE)[0]
    for twin in ("dilution", "constant"):
        table, errors, local = decided(PLANTED[twin])
        assert not share_laws.falls_by_law(table, errors, ALIKE)[0]
        assert not share_laws.steepens(local, SHARES)[0]
    _, _, local = decided(PLANTED["power law"])
    assert not share_laws.steepens(local, SHARES)[0]


def test_an_exponent_is_weaker_only_with_its_whole_interval():
    def table(low, high):
        return pd.DataFrame({"share": SHARES, "mean": (low + high) / 2, "low": low, "high": high})

    batch = table(-0.9, -0.5)
    assert share_laws.weaker({"batch": batch, "width": table(-0.2, 0.4), "depth": table(0.0, 0.1)}, "batch", SHARES)[0]
    assert not share_laws.weaker({"batch": batch, "width": table(-0.2, 0.6)}, "batch", SHARES)[0]
    assert not share_laws.weaker({"batch": batch, "width": table(-0.6, 0.1)}, "batch", SHARES)[0]
    assert not share_laws.weaker({"batch": table(-0.9, 0.8), "width": table(-0.2, 0.4)}, "batch", SHARES)[0]
    holds, line = share_laws.weaker({"batch": batch, "width": table(0.0, 0.1)}, "batch", ["net"])
    assert holds and line == "net: width +0.05 [+0.00, +0.10], batch -0.70 [-0.90, -0.50]"
    wide = table(0.0, 0.1)
    wide.loc[wide.share == "squared", "high"] = 0.6
    found = {"batch": batch, "width": wide}
    assert share_laws.weaker(found, "batch", ["net", "absolute"], ["squared"])[0]
    assert not share_laws.weaker(found, "batch", ["net"], ["absolute"])[0]  # decided, and said not to be


def test_what_came_otherwise_than_expected_is_named():
    rows = [("batch", "net", "as expected"), ("depth", "net", "not as expected"), ("depth", "absolute", "undecided")]
    against = pd.DataFrame(rows, columns=["factor", "share", "verdict"])
    against = against.assign(mean=-0.22, low=-0.26, high=-0.18, expected_low=-0.15, expected_high=0.15)
    holds, line = share_laws.as_expected_but(against, [("depth", "absolute"), ("depth", "net")])
    assert holds and "1 of 3 means in the range laid down; outside: depth, net -0.22 [-0.26, -0.18], expected" in line
    assert not share_laws.as_expected_but(against, [("depth", "net")])[0]
    assert not share_laws.as_expected_but(against, [("batch", "net"), ("depth", "absolute"), ("depth", "net")])[0]


def test_what_was_found_is_held_against_what_was_predicted(tmp_path):
    path = tmp_path / "predictions.toml"
    path.write_text("\n".join(["[width]", *(f"{n} = {{ low = 0.0, high = 0.5 }}" for n in SHARES)]))
    found = pd.DataFrame({"share": SHARES, "mean": [0.2, 0.6, 0.9], "low": [0.1, 0.4, 0.8], "high": [0.3, 0.8, 1.0]})
    table = share_laws.against_predictions({"width": found}, path)
    assert table.verdict.tolist() == ["as expected", "undecided", "not as expected"]


def test_every_factor_and_share_has_a_prediction():
    expected = tomllib.loads(share_laws.PREDICTIONS.read_text(encoding="utf-8"))
    for factor in ("batch", "width", "depth"):
        assert set(expected[factor]) == set(SHARES)
        assert all(x["low"] < x["high"] and x["why"] for x in expected[factor].values())
