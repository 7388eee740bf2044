"""What notebook 11 says of SmolLM2's runs, as checks; each returns whether it holds, and its evidence in a line."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from companion.reports.evaluation import t_interval

CONTROLS = {"Clip_B": "random mask", "Clip_V": "random mask like Clip_V"}  # masks of as many random penalised tokens


def sign_flip(differences: Sequence[float]) -> float:
    """Exact two-sided p-value of a mean of zero: the share of all 2^n choices of signs whose mean is as far from it."""
    values = np.asarray(differences, dtype=float)
    means = np.array(list(product((-1, 1), repeat=len(values)))) @ values / len(values)
    return float((np.abs(means) >= abs(values.mean()) * (1 - 1e-12)).mean())


def minus(results: pd.DataFrame, column: str, others: Mapping[str, str]) -> pd.DataFrame:
    """Each arm minus the arm it is compared with: one row a pair (task, seed), one column an arm."""
    values = results.pivot(index=["task", "seed"], columns="arm", values=column)
    return pd.DataFrame({arm: values[arm] - values[other] for arm, other in others.items()})


def keep_more_than_random(results: pd.DataFrame) -> tuple[bool, str]:
    """Clip_B and Clip_V end with more entropy than as many random tokens: the one test of the plan, over both tasks.

    Args:
        results: task, arm, seed, entropy (nats, mean of the last ten updates).
    """
    apart = minus(results, "entropy", CONTROLS)
    pairs = apart.mean(axis=1)
    p = sign_flip(pairs)
    parts = [f"{arm} {', '.join(f'{x:+.2f}' for x in apart[arm])}" for arm in CONTROLS]
    places = ", ".join(f"{task} {seed}" for task, seed in pairs.index)
    line = f"nats more than with as many random tokens ({places}): {'; '.join(parts)}; mean {pairs.mean():+.2f}"
    return bool(pairs.mean() > 0 and p < 0.05), f"{line}, exact p {p:.3f}"


def most_is_clip_v_s(results: pd.DataFrame) -> tuple[bool, str]:
    """Clip_V ends above its random mask in every pair, and by more than Clip_B above its own, which alone is undecided.

    Args:
        results: as for `keep_more_than_random`.
    """
    apart = minus(results, "entropy", CONTROLS)
    ahead, p = apart["Clip_V"] - apart["Clip_B"], sign_flip(apart["Clip_B"])
    holds = (apart["Clip_V"] > 0).all() and (ahead > 0).all() and p >= 0.05
    parts = [
        f"{arm} above its random mask in {(x > 0).sum()} of {len(x)} pairs, by {x.mean():.2f} nats"
        for arm, x in apart.items()
    ]
    line = f"{'; '.join(parts)}; Clip_B alone exact p {p:.3f}, Clip_V's lead the larger by {ahead.min():.2f} or more"
    return bool(holds), line


def no_gain_shows(results: pd.DataFrame) -> tuple[bool, str]:
    """Clip_B and Clip_V solve no more than GRPO: no interval is above zero, and mean Avg is below GRPO's in all masks.

    Args:
        results: task, arm, seed, avg and pass (of the test problems, after training).
    """
    masks = dict.fromkeys([*CONTROLS, *CONTROLS.values()], "GRPO")
    avg, solved = (minus(results, column, masks) for column in ("avg", "pass"))
    parts, holds = [], bool((avg.mean() < 0).all())
    for arm in CONTROLS:
        for name, table in (("Avg", avg), ("Pass", solved)):
            mean, low, high = t_interval(table[arm])
            holds &= low <= 0
            parts.append(f"{arm} {name} {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
    controls = ", ".join(f"{arm} {avg[arm].mean():+.3f}" for arm in CONTROLS.values())
    return holds, f"minus GRPO, 95 % over {len(avg)} pairs: {'; '.join(parts)}; Avg of {controls}"
