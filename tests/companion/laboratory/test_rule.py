"""Rules as configs hold them: complete, strict, and the same as the function they name."""

import pytest
import torch
from pydantic import ValidationError

from companion.laboratory.rule import Rule
from entropy_dynamics import methods
from entropy_dynamics.methods import TokenBatch, as_terms
from entropy_dynamics.token_statistics import token_statistics

INTERVENTION = {"action": "remove", "advantage": "negative", "statistic": "S", "sign": "below"}


def batch():
    generator = torch.Generator().manual_seed(0)
    logits, tokens = torch.randn(4, 5, 9, generator=generator), torch.randint(9, (4, 5), generator=generator)
    statistics = token_statistics(logits, tokens)
    advantages = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]]).expand(4, 5)
    mask = torch.arange(5) < torch.tensor([[5], [4], [3], [5]])
    return TokenBatch(statistics, statistics, advantages, advantages, mask, torch.tensor([0, 0, 1, 1]))


def test_a_rule_is_the_function_of_its_name_with_its_options():
    on = batch()

    def generator():
        return torch.Generator().manual_seed(3)

    options = {"like": "clip_b", "mu": 0.5, "choice": "random"}
    found = Rule(name="matched_mask", options=options)(on, generator())
    expected = as_terms(on, methods.matched_mask(on, generator(), **options))  # a rule that returns weights alone
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected))
    assert found.weights.any() and not found.weights.all()
    found = Rule(name="repo", options={"beta": 0.2})(on, generator())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, methods.repo(on, generator(), beta=0.2)))


def test_defaults_written_out_or_not_are_the_same_rule():
    assert Rule() == Rule(name="grpo", options={"clip_low": 0.2, "clip_high": 0.2})
    assert Rule(name="clip_b", options={"mu": 2}) == Rule(name="clip_b", options={"mu": 2.0, "reading": "released"})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gpro", {}, "unknown rule 'gpro'; choose from grpo"),
        ("grpo", {"mu": 1.0}, "mu"),
        ("clip_b", {}, "mu"),
        ("intervention", {"action": "keep"}, "advantage"),
        ("intervention", INTERVENTION | {"at_random": "false"}, "valid boolean"),
        ("intervention", INTERVENTION | {"advantage": "postive"}, "'positive' or 'negative'"),
        ("clip_v", {"mu": 1.0, "reading": "both"}, "'released' or 'two-sided'"),
    ],
)
def test_unknown_rules_and_options_are_named(name, options, message):
    with pytest.raises(ValidationError, match=message):
        Rule(name=name, options=options)
