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


def solved_table(results: pd.DataFrame) -> pd.DataFrame:
    """Avg and Pass after training of every mask minus GRPO's, and of the methods minus those of their random masks.

    Args:
        results: task, arm, seed, avg and pass (of the test problems, after training).

    Returns:
        arm, reference, column; mean, low, high (95 % t-interval over the pairs, not corrected) and the exact p.
    """
    masks = dict.fromkeys([*CONTROLS, *CONTROLS.values()], "GRPO")
    rows = []
    for others in (masks, CONTROLS):
        for column in ("avg", "pass"):
            for arm, pairs in minus(results, column, others).items():
                mean, low, high = t_interval(pairs)
                row = {"arm": arm, "reference": others[arm], "column": column, "mean": mean, "low": low, "high": high}
                rows.append(row | {"p": sign_flip(pairs)})
    return pd.DataFrame(rows)


def no_gain_shows(table: pd.DataFrame) -> tuple[bool, str]:
    """Clip_B and Clip_V solve no more than GRPO or as many random tokens: no interval of theirs is above zero, and with
    every mask, a random one, too, the mean Avg is below GRPO's.

    Args:
        table: as `solved_table`.
    """
    of_masks = table[(table["reference"] == "GRPO") & (table["column"] == "avg")]
    methods = table[table["arm"].isin(list(CONTROLS))]
    parts = [
        f"{row['arm']} {row['column']} {row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        for _, row in table[table["reference"] == "GRPO"].iterrows()
    ]
    controls = [
        f"{row['arm']} {row['column']} {row['mean']:+.3f}" for _, row in table[table["reference"] != "GRPO"].iterrows()
    ]
    holds = bool((methods["low"] <= 0).all() and (of_masks["mean"] < 0).all())
    return holds, f"minus GRPO, 95 %: {'; '.join(parts)}; minus as many random tokens: {', '.join(controls)}"
