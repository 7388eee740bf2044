"""The controller on simulated plants, and its state."""

import json
import math
import random
from dataclasses import asdict

import pytest

from entropy_dynamics.control import TargetEntropy

SETTINGS = {"target": 0.3, "vocabulary": 19, "effect": 0.02}


def simulate(controller, *, start, drift=-0.004, effect=0.02, lag=0.0, noise=0.0, batches=400, seed=0):
    """Entropy of each batch: every batch adds drift + effect u, of which a share `lag` comes a batch later each."""
    rng, entropy, pending, seen = random.Random(seed), start, 0.0, []
    for _ in range(batches):
        seen.append(entropy)
        pending = lag * pending + (1 - lag) * effect * controller.update(entropy + rng.gauss(0, noise))
        entropy = min(max(entropy + drift + pending, 0.0), math.log(19))
    return seen


def test_the_first_strengths_by_hand():
    controller = TargetEntropy(target=0.5, vocabulary=19, effect=0.1, horizon=5)
    # k = 1 / (0.1 5) = 2, c = 2 / 20 = 0.1
    assert controller.update(0.4) == pytest.approx(2 * 0.1 + 0.1 * 0.1)
    assert controller.update(0.45) == pytest.approx(2 * 0.05 + 0.1 * 0.15)
    assert controller.integral == pytest.approx(0.1 * 0.15)


def test_a_gap_closes_as_the_two_equal_poles_say():
    # Without drift and clamp, e'' + e'/h + e/(4 h^2) = 0 has e = e0 (1 - t/(2h)) exp(-t/(2h)), for a long horizon h.
    controller = TargetEntropy(target=0.5, vocabulary=19, effect=1.0, horizon=100, smallest=-1)
    seen = simulate(controller, start=0.4, drift=0.0, effect=1.0, batches=600)
    for t in (50, 100, 300, 599):
        expected = 0.1 * (1 - t / 200) * math.exp(-t / 200)
        assert 0.5 - seen[t] == pytest.approx(expected, abs=1.5e-3)


@pytest.mark.parametrize("start", [0.1, 0.9])
@pytest.mark.parametrize("mistaken", [0.5, 1.0, 2.0])  # the effect that the controller is told, over the true one
def test_it_holds_the_target_with_lag_and_noise(start, mistaken):
    controller = TargetEntropy(**SETTINGS | {"effect": 0.02 * mistaken})
    seen = simulate(controller, start=start, lag=0.5, noise=0.01)
    assert abs(sum(seen[250:]) / 150 - 0.3) < 0.005
    assert max(abs(entropy - 0.3) for entropy in seen[250:]) < 0.03
    assert min(seen) > (0.1 if start < 0.3 else 0.3) - 0.06  # from above it does not fall through


def test_the_sum_cancels_a_drift():
    controller = TargetEntropy(**SETTINGS)
    seen = simulate(controller, start=0.9)
    assert seen[-1] == pytest.approx(0.3, abs=1e-3)
    assert controller.integral == pytest.approx(0.2, abs=1e-2)  # 0.004 / 0.02, what cancels the drift


def test_it_does_nothing_above_the_target():
    controller = TargetEntropy(**SETTINGS)
    assert [controller.update(0.3 + 0.01 * i) for i in range(100, -1, -1)] == [0.0] * 101
    assert controller.integral == 0
    assert controller.update(0.29) > 0


def test_the_sum_does_not_wind_up_at_the_clamp():
    controller = TargetEntropy(**SETTINGS)
    assert {controller.update(0.01) for _ in range(1000)} == {1.0}
    at_the_target = controller.update(0.3)
    assert at_the_target < 1e-9
    two_sided = TargetEntropy(**SETTINGS, smallest=-1)
    assert {two_sided.update(2.0) for _ in range(1000)} == {-1.0}
    assert abs(two_sided.update(0.3)) < 1e-9


def test_a_restart_is_exact():
    straight, before = TargetEntropy(**SETTINGS), TargetEntropy(**SETTINGS)
    entropies = [0.31 - 0.003 * i + 0.0007 * (i * i % 5) for i in range(60)]
    expected = [straight.update(entropy) for entropy in entropies]
    first = [before.update(entropy) for entropy in entropies[:30]]
    after = TargetEntropy(**SETTINGS)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert first + [after.update(entropy) for entropy in entropies[30:]] == expected
    assert asdict(after) == asdict(straight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 0.0}, "target is 0.0, expected above 0 and at most log 19 = 2.944"),
        ({"target": -1.0}, "target is -1.0"),
        ({"target": 2.95}, "target is 2.95"),
        ({"target": math.nan}, "target is nan"),
        ({"vocabulary": 1}, "at most log 1 = 0.000"),
        ({"effect": 0.0}, "effect is 0.0"),
        ({"horizon": 0.5}, "horizon is 0.5"),
        ({"smallest": 0.1}, "smallest is 0.1"),
        ({"largest": 0.0}, "largest is 0.0"),
    ],
)
def test_bad_settings_name_themselves(change, message):
    with pytest.raises(ValueError, match=message):
        TargetEntropy(**SETTINGS | change)


def test_an_entropy_that_is_not_finite_is_refused_and_forgotten():
    controller = TargetEntropy(**SETTINGS)
    controller.update(0.2)
    before = controller.state_dict()
    for entropy in (math.nan, math.inf):
        with pytest.raises(ValueError, match="mean entropy is"):
            controller.update(entropy)
    assert controller.state_dict() == before
