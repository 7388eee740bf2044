"""What notebook 11 says of SmolLM2's runs, as checks; each returns whether it holds, and its evidence in a line."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

CONTROLS = {"Clip_B": "random mask", "Clip_V": "random mask like Clip_V"}  # masks of as many random penalised tokens


def sign_flip(differences: Sequence[float]) -> float:
    """Exact two-sided p-value of a mean of zero: the share of all 2^n choices of signs whose mean is as far from it."""
    values = np.asarray(differences, dtype=float)
    means = np.array(list(product((-1, 1), repeat=len(values)))) @ values / len(values)
    return float((np.abs(means) >= abs(values.mean()) * (1 - 1e-12)).mean())


def keep_more_than_random(results: pd.DataFrame) -> tuple[bool, str]:
    """Clip_B and Clip_V end with more entropy than as many random tokens: the one test of the plan, over both tasks.

    Args:
        results: task, arm, seed, entropy (nats, mean of the last ten updates).
    """
    values = results.pivot(index=["task", "seed"], columns="arm", values="entropy")
    apart = pd.DataFrame({arm: values[arm] - values[control] for arm, control in CONTROLS.items()})
    pairs = apart.mean(axis=1)
    p = sign_flip(pairs)
    parts = [f"{arm} {', '.join(f'{x:+.2f}' for x in apart[arm])}" for arm in CONTROLS]
    places = ", ".join(f"{task} {seed}" for task, seed in pairs.index)
    line = f"nats more than with as many random tokens ({places}): {'; '.join(parts)}; mean {pairs.mean():+.2f}"
    return bool(pairs.mean() > 0 and p < 0.05), f"{line}, exact p {p:.3f}"
