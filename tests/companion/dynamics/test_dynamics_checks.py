import numpy as np
import pytest

from companion.dynamics import checks


def test_paths_are_the_same_or_not():
    path = np.linspace(0, 5, 20)
    assert checks.same({"a": (path, path + 1e-9)}) == (True, "formula and integrator agree to 1e-08 (a)")
    holds, line = checks.same({"a": (path, path), "b": (path, path + 2e-8)})
    assert not holds
    assert "2.0e-08 (b)" in line
    still = np.ones(20)
    assert not checks.same({"a": (still, still)})[0]  # what does not move agrees with any formula


@pytest.mark.parametrize(
    ("ratio", "holds"),
    [
        ([1.5, 1.1, 1.02], True),
        ([0.5, 0.9, 0.99], True),
        ([1.0001, 1.0, 1.0002], True),
        ([1.5, 1.1, 1.06], False),
        ([1.02, 1.05, 1.04], False),
        ([2.0, 2.0, 2.0], False),
    ],
)
def test_what_approaches_one(ratio, holds):
    assert checks.approaches({"x": np.array(ratio)}, within=0.05)[0] == holds
    assert not checks.approaches({"x": np.array(ratio), "y": np.array([1.0, 1.2, 1.4])}, within=0.05)[0]


def test_slopes_of_a_power_law():
    times = np.array([1.0, 3.0, 10.0])
    np.testing.assert_allclose(checks.slopes(times, 4 * times**-0.5), [-0.5, -0.5])


def test_the_winner_takes_all_or_not():
    falling, constant = np.array([0.9, 0.1, 0.005]), np.full(3, 0.9)
    holds, line = checks.winner_takes_all(falling, constant)
    assert holds
    assert "from 0.90 to 5.0e-03" in line
    assert not checks.winner_takes_all(falling, np.array([0.9, 0.9, 0.9 + 1e-6]))[0]
    assert not checks.winner_takes_all(np.array([0.9, 0.1, 0.02]), constant)[0]
    assert not checks.winner_takes_all(np.array([0.9, 0.001, 0.002]), constant)[0]
