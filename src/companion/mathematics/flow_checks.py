"""How claims on flows are decided: each check returns whether it holds, and its evidence in one line."""

from collections.abc import Mapping

import numpy as np

Paths = Mapping[str, tuple[np.ndarray, np.ndarray]]  # by name, what a formula says and what was integrated


def same(paths: Paths, *, tolerance: float = 1e-8) -> tuple[bool, str]:
    """Whether formula and integration agree everywhere to `tolerance`, and the path moves by far more than that."""
    gaps = {name: float(np.abs(np.subtract(*pair)).max()) for name, pair in paths.items()}
    moves = min(float(np.ptp(closed)) for closed, _ in paths.values())
    line = f"formula and integrator agree to {tolerance:g} ({', '.join(paths)})"
    if max(gaps.values()) > tolerance:
        line = "formula and integrator differ by " + ", ".join(f"{gap:.1e} ({name})" for name, gap in gaps.items())
    return max(gaps.values()) <= tolerance and moves > 1e4 * tolerance, line


def approaches(ratios: Mapping[str, np.ndarray], *, within: float) -> tuple[bool, str]:
    """Whether each ratio, at times that grow by a constant factor, draws nearer to 1 each time and ends `within`.

    It may also be there all along: what is nearer than a hundredth of `within` need not get nearer still.
    """
    distances = {name: np.abs(np.asarray(ratio, dtype=float) - 1) for name, ratio in ratios.items()}
    nearer = all(((d[1:] < d[:-1]) | (d[1:] < within / 100)).all() for d in distances.values())
    line = "; ".join(f"{name}: {', '.join(f'{x:.3f}' for x in ratio)}" for name, ratio in ratios.items())
    return nearer and all(d[-1] < within for d in distances.values()), f"ratios to the limit {line}"


def slopes(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """d log values / d log times between neighbours: the exponents of a power law, piece by piece."""
    return np.diff(np.log(values)) / np.diff(np.log(times))


def winner_takes_all(ratio: np.ndarray, natural: np.ndarray) -> tuple[bool, str]:
    """Whether, of two arms of equal reward, the weaker vanishes beside the stronger, but not under natural gradient.

    Args:
        ratio, natural: (T,), the weaker one's probability over the stronger one's, under either flow.
    """
    falls, drift = (np.diff(ratio) < 0).all(), float(np.abs(natural / natural[0] - 1).max())
    line = (
        f"the weaker of two equal arms falls from {ratio[0]:.2f} to {ratio[-1]:.1e} of the stronger, "
        f"under natural gradient it ends at {natural[-1]:.2f} of it"
    )
    return bool(falls and ratio[-1] < 0.01 and drift < 1e-9), line
