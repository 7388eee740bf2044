"""What the entropy ledger of notebook 06 says, against predictors that know no theory."""

import pandas as pd

from companion.reports.tables import best_factor, explained

THEORY, BASELINES = ("parameters", "Theorem 3.3"), ("a constant", "the entropy")


def predictions(ledger: pd.DataFrame) -> pd.DataFrame:
    """What each predictor says of every step, in nats: first order in the parameters, Theorem 3.3, and two baselines.

    Args:
        ledger: of `tables.ledger_table`.
    """
    return pd.DataFrame(
        {
            "parameters": ledger["parameters"],
            "Theorem 3.3": ledger["logits"],
            "a constant": ledger["measured"].mean(),
            "the entropy": best_factor(ledger["entropy"], ledger["measured"]) * ledger["entropy"],
        }
    )


def scores(ledger: pd.DataFrame) -> pd.DataFrame:
    """How good each predictor is.

    Returns:
        By predictor: explained, the share of the squared changes; signs, the share of the steps with the right sign;
        arms, the share of the (arm, seed) whose summed change has the right sign; sum, of its predictions in nats.
    """
    found, measured = predictions(ledger), ledger["measured"]
    of_arms = pd.concat([found, measured.rename("measured")], axis=1).groupby([ledger["arm"], ledger["seed"]]).sum()
    return pd.DataFrame(
        {
            "explained": {name: explained(found[name], measured) for name in found},
            "signs": found.mul(measured, axis=0).gt(0).mean(),
            "arms": of_arms[found.columns].mul(of_arms["measured"], axis=0).gt(0).mean(),
            "sum": found.sum(),
        }
    )


def theory_explains_more(plain: pd.DataFrame, steered: pd.DataFrame) -> tuple[bool, str]:
    """First order in the parameters explains more than the baselines, and Theorem 3.3 has the direction of more arms.

    Args:
        plain: the ledger of plain GRPO, where entropy falls nearly always; steered: that of interventions.
    """
    tables = {"plain GRPO": scores(plain), "interventions": scores(steered)}
    holds, parts = True, []
    for run, table in tables.items():
        best = table.loc[list(BASELINES), "explained"].max()
        holds &= bool(table.loc["parameters", "explained"] > best)
        parts.append(
            f"{run}: {table.loc['parameters', 'explained']:.0%} of the squared changes, baselines {best:.0%} at most"
        )
    arms = tables["interventions"]["arms"]
    best = arms[list(BASELINES)].max()
    holds &= bool(arms["Theorem 3.3"] > best)
    number = len(steered[["arm", "seed"]].drop_duplicates())
    parts.append(
        f"Theorem 3.3 has the direction of {arms['Theorem 3.3']:.0%} of {number} arms, baselines {best:.0%} at most"
    )
    return holds, "; ".join(parts)
