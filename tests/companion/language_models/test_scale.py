"""The calculator's numbers by hand."""

import pytest

from companion.language_models.scale import GIB, MODELS, Load, Model, memory, seconds_per_step, statistics_memory

TINY = Model(name="tiny", parameters=1e9, layers=10, width=1000, key_value_width=100, vocabulary=50_000)
LOAD = Load(gpus=4, tokens=1000, sequences=2, responses=8, concurrent=3)


def test_memory_by_hand():
    parts = {name: value * GIB for name, value in memory(TINY, LOAD).items()}
    assert parts == pytest.approx(
        {
            "weights": 0.5e9,
            "gradients": 0.5e9,
            "optimizer": 3e9,
            "one layer gathered": 0.2e9,
            "checkpoints": 2 * 2000 * 1000 * 10,
            "generation weights": 2e9,
            "key-value cache": 4 * 3 * 1000 * 10 * 100,
            "logits and their gradient": 4 * 2000 * 50_000,
        }
    )


def test_statistics_by_hand():
    found = statistics_memory(TINY, LOAD)
    assert found["probabilities and their logs, float32"] * GIB == pytest.approx(8 * 2000 * 50_000)
    assert found["one pass"] < 0.01


def test_seconds_by_hand():
    # 1e9 parameters x 8000 tokens / (4 GPUs x 1e12) = 2 seconds of one operation a parameter and token
    found = seconds_per_step(TINY, LOAD, flops=1e12, training=0.5, generation=0.1)
    assert found == pytest.approx({"generation": 40, "statistics": 8, "training": 32})


def test_more_gpus_hold_less_each_and_larger_models_more():
    totals = [sum(memory(MODELS[3], Load(gpus=n)).values()) for n in (1, 8, 64)]
    assert totals == sorted(totals, reverse=True)
    by_size = [sum(memory(model, Load()).values()) for model in MODELS]
    assert by_size == sorted(by_size)
