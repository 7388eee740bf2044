"""What notebook 08 says of sweeps over mu, as checks; each returns whether it holds, and its evidence in a line."""

from collections.abc import Sequence
from itertools import pairwise

import pandas as pd

from companion.reports.tables import paired


def is_a_dial(final: pd.DataFrame, families: Sequence[str]) -> tuple[bool, str]:
    """The smaller mu, the more entropy is left: from each mu to the next larger one, with every seed.

    Args:
        final: evaluations with the columns family, strength (mu), seed and entropy (nats).
    """
    holds, parts = True, []
    for family in families:
        entropy = (
            final[final["family"] == family].pivot(index="strength", columns="seed", values="entropy").sort_index()
        )
        holds &= all((entropy.loc[a] > entropy.loc[b]).all() for a, b in pairwise(entropy.index))
        means = ", ".join(f"{x:.3f}" for x in entropy.mean(axis=1))
        parts.append(f"{family}: final entropy {means} nats for mu from {entropy.index[0]:g} to {entropy.index[-1]:g}")
    return holds, "; ".join(parts)


def keeps_more_entropy(final: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> tuple[bool, str]:
    """The first arm of each pair ends with more entropy than the second, 95 % t-interval above zero."""
    holds, parts = True, []
    for one, other in pairs:
        row = paired(final[final["arm"].isin([one, other])], "entropy", reference=other).loc[one]
        holds &= bool(row["low"] > 0)
        parts.append(f"{one} minus {other} {row['mean']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}) nats")
    return holds, "; ".join(parts)


def is_grpo(final: pd.DataFrame, arm: str) -> tuple[bool, str]:
    """An arm gives GRPO's results to the last digit with every seed: its rule never acts."""
    own, grpo = (final[final["arm"] == name].set_index("seed")[["avg", "pass", "entropy"]] for name in (arm, "GRPO"))
    return own.equals(grpo), f"{arm} has GRPO's Avg@32, Pass@32 and entropy to the last digit with all {len(own)} seeds"
