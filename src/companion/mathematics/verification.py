"""How predicted entropy changes are held against exact ones: tables of changes, agreement, wrong twins, slopes."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from companion.mathematics.remainder import trust_radius
from entropy_dynamics import theory
from entropy_dynamics.token_statistics import token_statistics

STATES_AT_ONCE = 2  # a few float64 rows of a large vocabulary stay in the processor's cache

Formula = Callable[[pd.DataFrame], pd.Series]  # a predicted entropy change from the columns of a change table


@dataclass(frozen=True)
class Update:
    """A logit update, its first-order law, its quadratic term, and wrong formulas that resemble the law.

    A check that any of the wrong twins passes would be worthless.
    """

    logit_change: Callable[[Tensor, Tensor, float], Tensor]  # (logits, token, step)
    first_order: Formula
    second_order: Callable[[Tensor, Tensor, float], Tensor]  # (logits, token, step)
    wrong: dict[str, Formula]


SINGLE_LOGIT = Update(
    theory.single_logit_update,
    lambda t: -t.step * t.discriminator,  # Theorem 3.2
    theory.single_logit_second_order_change,
    {
        "sign flipped": lambda t: t.step * t.discriminator,
        "baseline subtracted": lambda t: -t.step * (t.discriminator - t.baseline),
        "factor p dropped": lambda t: -t.step * (t.entropy + t.log_prob),
        "rare tokens ignored": lambda t: -t.step * t.discriminator * (t.log_prob > np.log(0.01)),
    },
)
GRPO = Update(
    theory.grpo_logit_update,
    lambda t: -t.step * (t.discriminator - t.baseline),  # Theorem 3.3
    theory.grpo_second_order_change,
    {
        "sign flipped": lambda t: t.step * (t.discriminator - t.baseline),
        "baseline removed": lambda t: -t.step * t.discriminator,
        "factor p dropped": lambda t: -t.step * (t.entropy + t.log_prob),
        "rare tokens ignored": lambda t: -t.step * (t.discriminator - t.baseline) * (t.log_prob > np.log(0.01)),
    },
)


def change_table(batches: Iterable[tuple[Tensor, Tensor]], update: Update, steps: Sequence[float]) -> pd.DataFrame:
    """One row per (token, step): the token's statistics, predicted and exact entropy change, in float64.

    Args:
        batches: (logits (n, V), tokens (n,)) pairs; every token is used.
        update: `SINGLE_LOGIT` or `GRPO`.
        steps: values of eps or alpha.

    Returns:
        Columns token (running number), log_prob, entropy, discriminator, baseline, step, first_order,
        second_order (the quadratic term alone) and exact; all but token and step in nats.
    """
    table = table_of_states(batches, lambda z, k: _changes(z, k, update, steps))
    table.insert(0, "token", table.groupby("step").cumcount())
    table.insert(table.columns.get_loc("second_order"), "first_order", update.first_order(table))
    return table.sort_values(["step", "token"], ignore_index=True)


def _changes(z: Tensor, k: Tensor, update: Update, steps: Sequence[float]) -> dict[str, Tensor]:
    statistics = {name: value for name, value in token_statistics(z, k)._asdict().items() if value is not None}
    unit_change = update.logit_change(z, k, 1.0)
    second = update.second_order(z, k, 1.0)
    return {
        **{name: value.repeat(len(steps)) for name, value in statistics.items()},
        "step": torch.tensor(steps, dtype=z.dtype).repeat_interleave(len(k)),
        "second_order": torch.cat([step**2 * second for step in steps]),
        "exact": torch.cat([theory.exact_change(z, step * unit_change) for step in steps]),
    }


def table_of_states(
    batches: Iterable[Sequence[Tensor]], columns_of: Callable[..., Mapping[str, Tensor] | pd.DataFrame]
) -> pd.DataFrame:
    """The columns that `columns_of(logits, ...)` makes of each few states, one below the other.

    Args:
        batches: (logits (n, V), ...) tuples; each tensor is split alike, the logits are passed on in float64.
        columns_of: vectors of one length by name, of a few states.
    """
    table: dict[str, list[float]] = defaultdict(list)
    for batch in batches:
        for logits, *others in zip(*(tensor.split(STATES_AT_ONCE) for tensor in batch)):
            for name, column in columns_of(logits.double(), *others).items():
                # Floats, not tensors: a small tensor that is kept between large ones would keep the allocator from
                # using the freed space before it again, and the process would grow by some rows of logits a state.
                table[name] += column.tolist()
    return pd.DataFrame(table)


@dataclass(frozen=True)
class Agreement:
    """How well predictions lie on the line predicted = exact."""

    r_squared: float  # 1 - sum (exact - predicted)^2 / sum (exact - mean)^2; no slope or offset is fitted
    worst_error: float  # largest |exact - predicted| in units of the largest |exact|
    worst_relative_error: float  # largest |exact - predicted| / |exact| of any single token
    median_relative_error: float  # and its median over tokens
    sign_agreement: float  # share of tokens whose predicted sign is the exact one


def agreement(predicted: pd.Series, exact: pd.Series) -> Agreement:
    """Compare two columns of changes, element by element; every element counts."""
    if len(predicted) != len(exact) or len(exact) < 2:
        raise ValueError(f"need two columns of equal length >= 2, got {len(predicted)} and {len(exact)}")
    predicted, exact = np.asarray(predicted, dtype=float), np.asarray(exact, dtype=float)
    if (exact == 0).any() or (exact == exact[0]).all():
        raise ValueError("exact changes must differ, and none may be zero: relative errors and R^2 need that")
    error = np.abs(exact - predicted)
    return Agreement(
        r_squared=float(1 - (error**2).sum() / ((exact - exact.mean()) ** 2).sum()),
        worst_error=float(error.max() / np.abs(exact).max()),
        worst_relative_error=float((error / np.abs(exact)).max()),
        median_relative_error=float(np.median(error / np.abs(exact))),
        sign_agreement=float((np.sign(predicted) == np.sign(exact)).mean()),
    )


def agreement_table(table: pd.DataFrame, update: Update) -> pd.DataFrame:
    """Agreement with `exact` at each step, of the first order, of both orders, and of each wrong twin."""
    predictions = {
        "first order": lambda t: t.first_order,
        "first + second order": lambda t: t.first_order + t.second_order,
        **{f"wrong: {name}": predict for name, predict in update.wrong.items()},
    }
    return pd.DataFrame(
        {"step": step, "prediction": name, **vars(agreement(predict(group), group.exact))}
        for step, group in table.groupby("step")
        for name, predict in predictions.items()
    )


def log_log_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent a of the power law y ~ x^a, by least squares on logarithms; x and y must be positive."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not ((x > 0).all() and (y > 0).all()):
        raise ValueError(f"a power law needs positive values, got minima {x.min()} and {y.min()}")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def remainder_table(
    update: Update, vocabulary_sizes: Sequence[int], steps: Sequence[float], *, states: int, seed: int
) -> pd.DataFrame:
    """Root-mean-square remainders on random policies, one row per (vocabulary size, step).

    Columns first_order and second_order hold what is left of the exact entropy change after the terms up
    to that order; change is the RMS of the exact change itself. All in nats, float64.
    """
    rows = []
    for size in vocabulary_sizes:
        logits, tokens = random_policies(states, size, seed=seed)
        table = change_table([(logits, tokens)], update, steps)
        for step, group in table.groupby("step"):
            left = {
                "change": group.exact,
                "first_order": group.exact - group.first_order,
                "second_order": group.exact - group.first_order - group.second_order,
            }
            rms = {name: float(np.sqrt((values**2).mean())) for name, values in left.items()}
            rows.append({"vocabulary": size, "step": step, **rms})
    return pd.DataFrame(rows)


def radius_table(batches: Sequence[tuple[Tensor, Tensor]], *, tokens: int, seed: int) -> pd.DataFrame:
    """Trust radii of `tokens` of the sampled tokens, drawn at random: log_prob, entropy, centred, second_order, radius.

    Args:
        batches: (logits (n, V), tokens (n,)) pairs.

    Returns:
        One row a token, in float64: `second_order` is |D / Q|, where -alpha D + alpha^2 Q changes sign; `radius` is
        infinite where the sign is right up to |alpha| = 100.
    """
    sizes = [len(k) for _, k in batches]
    drawn = torch.zeros(sum(sizes), dtype=torch.bool)
    drawn[torch.randperm(len(drawn), generator=torch.Generator().manual_seed(seed))[:tokens]] = True
    chosen = ((logits[some], k[some]) for (logits, k), some in zip(batches, drawn.split(sizes)))
    return table_of_states(chosen, _radii)


def _radii(z: Tensor, k: Tensor) -> dict[str, Tensor]:
    statistics = token_statistics(z, k, curvature=True)
    return {
        "log_prob": statistics.log_prob,
        "entropy": statistics.entropy,
        "centred": statistics.centred,
        "second_order": (statistics.centred / statistics.curvature).abs(),
        "radius": trust_radius(z, k),
    }


def random_policies(states: int, size: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Random float64 logits (states, size) from flat to peaked, and one on-policy token (states,) of each.

    Logits are Gaussian with a standard deviation drawn uniformly from 0.5 to 6 for each state.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = 0.5 + 5.5 * torch.rand(states, 1, generator=generator, dtype=torch.float64)
    logits = spread * torch.randn(states, size, generator=generator, dtype=torch.float64)
    tokens = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
    return logits, tokens


def band_table(batches: Iterable[Tensor]) -> pd.DataFrame:
    """Per state of the logits (n, V): entropy, baseline E_p[S], and mass, the probability of 0 < S < E_p[S]."""
    return table_of_states(((logits,) for logits in batches), _band)


def _band(z: Tensor) -> dict[str, Tensor]:
    mass = (z.softmax(-1) * theory.disagreement_band(z)).sum(-1)
    return {"entropy": theory.entropy(z), "baseline": theory.expected_discriminator(z), "mass": mass}
