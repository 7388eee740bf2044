"""Rules on a batch small enough to check by eye."""

import pytest
import torch
from pydantic import ValidationError

from entropy_dynamics.methods import Rule, TokenBatch, random_subset
from entropy_dynamics.token_statistics import TokenStatistics

# Rows: A > 0, A < 0, A = 0. The last column is behind the end of the response.
S = torch.tensor([[0.3, -0.1, 0.1, 0.5], [0.2, -0.2, -0.05, -0.5], [0.1, -0.1, 0.1, 0.1]])
BASELINE = torch.full((3, 4), 0.15)
MASK = torch.tensor([[True, True, True, False]] * 3)
ADVANTAGES = torch.tensor([1.0, -1.0, 0.0]).unsqueeze(-1).expand(3, 4)
LOG_PROB = torch.tensor([[0.2, 0.1, 0.4, 0.5]] * 3).log()
BATCH = TokenBatch(TokenStatistics(LOG_PROB, torch.ones(3, 4), S, BASELINE), LOG_PROB - 0.1, ADVANTAGES, MASK)


def weights(**options):
    return Rule(name="intervention", options=options)(BATCH, torch.Generator().manual_seed(0)).int().tolist()


NOTHING = [0, 0, 0, 0]


def test_interventions_by_hand():
    def keep(advantage, statistic, sign):
        return weights(action="keep", advantage=advantage, statistic=statistic, sign=sign)

    assert keep("positive", "S", "above") == [[1, 0, 1, 0], NOTHING, NOTHING]
    assert keep("positive", "S", "below") == [[0, 1, 0, 0], NOTHING, NOTHING]
    assert keep("negative", "S", "above") == [NOTHING, [1, 0, 0, 0], NOTHING]
    assert keep("negative", "S", "below") == [NOTHING, [0, 1, 1, 0], NOTHING]
    assert keep("positive", "D", "above") == [[1, 0, 0, 0], NOTHING, NOTHING]
    assert keep("positive", "D", "below") == [[0, 1, 1, 0], NOTHING, NOTHING]
    removed = weights(action="remove", advantage="negative", statistic="S", sign="below")
    assert removed == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0]]


def test_the_random_control_has_the_same_size_and_side():
    options = {"advantage": "negative", "statistic": "S", "sign": "below", "at_random": True}
    kept = torch.tensor(weights(action="keep", **options))
    assert kept.sum() == 2 and kept[1, :3].sum() == 2
    removed = torch.tensor(weights(action="remove", **options))
    assert removed.sum() == MASK.sum() - 2 and removed[1, :3].sum() == 1


def test_random_subsets_are_uniform():
    candidates = torch.tensor([[True, False, True], [True, True, False]])
    generator = torch.Generator().manual_seed(0)
    counts = sum(random_subset(candidates, 2, generator).int() for _ in range(4000))
    assert (counts[~candidates] == 0).all()
    # each of the four is chosen with probability 1/2: standard deviation 31.6
    assert (counts[candidates] - 2000).abs().max() < 150
    assert random_subset(candidates, 0, generator).sum() == 0
    assert torch.equal(random_subset(candidates, 4, generator), candidates)
    with pytest.raises(ValueError, match="count is 5, expected 0 to 4"):
        random_subset(candidates, 5, generator)


def test_defaults_written_out_or_not_are_the_same_rule():
    options = {"action": "keep", "advantage": "positive", "statistic": "S", "sign": "above"}
    assert Rule(name="intervention", options=options) == Rule(
        name="intervention", options=options | {"at_random": False}
    )


def test_grpo_keeps_every_token_and_the_ratio_is_that_of_the_log_probs():
    assert torch.equal(Rule()(BATCH, torch.Generator()), MASK)
    assert BATCH.ratio.flatten().tolist() == pytest.approx([torch.tensor(0.1).exp().item()] * 12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gpro", {}, "unknown rule 'gpro'; choose from grpo"),
        ("grpo", {"mu": 1.0}, "mu"),
        ("intervention", {"action": "keep"}, "advantage"),
        (
            "intervention",
            {"action": "keep", "advantage": "positive", "statistic": "S", "sign": "above", "at_random": "false"},
            "valid boolean",
        ),
        (
            "intervention",
            {"action": "keep", "advantage": "postive", "statistic": "S", "sign": "above"},
            "'positive' or 'negative'",
        ),
    ],
)
def test_unknown_rules_and_options_are_named(name, options, message):
    with pytest.raises(ValidationError, match=message):
        Rule(name=name, options=options)
