import sys

import numpy as np
import pandas as pd
import pytest
import torch

from companion.language_models import arithmetic, grouped_batch
from companion.language_models.language_model import load_language_model
from companion.provenance import ROOT
from entropy_dynamics import theory

PROBLEMS = [arithmetic.Problem("34 + 25", 59), arithmetic.Problem("1 + 1", 2)]


@pytest.fixture(scope="module")
def smollm2():
    return load_language_model()


@pytest.fixture(scope="module")
def committed():
    return pd.read_csv(ROOT / grouped_batch.COMMITTED)


def sample(smollm2, seed):
    return grouped_batch.sample_groups(*smollm2, PROBLEMS, group_size=4, max_tokens=4, seed=seed)


def test_groups_are_sampled_and_rewarded(smollm2):
    state = torch.random.get_rng_state()
    responses, rewards = sample(smollm2, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (responses, rewards) == sample(smollm2, seed=1)
    assert responses.response_ids != sample(smollm2, seed=2)[0].response_ids
    tokenizer = smollm2[1]
    assert len(responses.response_ids) == 8
    for row, (prompt, ids) in enumerate(zip(responses.prompt_ids, responses.response_ids)):
        problem = PROBLEMS[row // 4]
        assert tokenizer.decode(prompt) == f"{arithmetic.EXAMPLE}{problem.expression} ="
        end = tokenizer.eos_token_id
        assert 0 < len(ids) <= 4 and end not in ids[:-1] and (len(ids) == 4 or ids[-1] == end)
        assert rewards[row] == arithmetic.is_correct(problem, tokenizer.decode(ids, skip_special_tokens=True))
    assert 0 < sum(rewards) < 8


def test_the_table_has_each_token_s_statistics(smollm2):
    model, _ = smollm2
    responses, rewards = sample(smollm2, seed=1)
    table = grouped_batch.token_table(model, PROBLEMS, responses, rewards, group_size=4)
    row = 5
    prompt, ids = responses.prompt_ids[row], responses.response_ids[row]
    with torch.no_grad():
        z = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double()
    some, tokens = table[table.row == row], torch.tensor(ids)[:, None]
    assert some.token.tolist() == ids and some.position.tolist() == list(range(len(ids)))
    assert set(some.problem) == {"1 + 1"} and set(some.reward) == {rewards[row]}
    s = theory.discriminator(z).gather(-1, tokens)[:, 0]
    centred = s - theory.expected_discriminator(z)
    p = z.softmax(-1).gather(-1, tokens)[:, 0]
    for name, expected in (("discriminator", s), ("centred", centred), ("probability", p)):
        np.testing.assert_allclose(some[name], expected, atol=1e-4)
    advantage = table.groupby("row").advantage.first()
    group = np.array(rewards[4:])
    np.testing.assert_allclose(advantage[4:], (group - group.mean()) / (group.std(ddof=1) + 1e-6), atol=1e-9)


def test_the_committed_batch_is_what_the_notebook_needs(committed, smollm2):
    tokenizer = smollm2[1]
    responses = committed.groupby("row").agg(
        problem=("problem", "first"), tokens=("token", list), reward=("reward", "first"), a=("advantage", "first")
    )
    problems = arithmetic.split("addition")[0][:32]
    assert responses.problem.tolist() == [problem.expression for problem in problems for _ in range(8)]
    for row in responses.itertuples():
        text = tokenizer.decode(row.tokens, skip_special_tokens=True)
        assert row.reward == arithmetic.is_correct(problems[row.Index // 8], text)
    rewards = responses.reward.to_numpy().reshape(32, 8)
    deviation = rewards.std(1, ddof=1, keepdims=True)
    expected = (rewards - rewards.mean(1, keepdims=True)) / (deviation + 1e-6)
    np.testing.assert_allclose(responses.a.to_numpy().reshape(32, 8), expected, atol=1e-5)
    assert ((deviation > 0).sum() > 10) and (committed.probability > 0).all()


def test_the_committed_statistics_are_the_model_s(committed, smollm2):
    model, tokenizer = smollm2
    some = committed[committed.row == 0]
    prompt = tokenizer(arithmetic.FORMATS[grouped_batch.ASKED](some.problem.iloc[0])).input_ids
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + some.token.tolist()])).logits[0, len(prompt) - 1 : -1].double()
    p = logits.softmax(-1).gather(-1, torch.tensor(some.token.to_numpy())[:, None])[:, 0]
    np.testing.assert_allclose(some.probability, p, rtol=1e-3)
    np.testing.assert_allclose(some.entropy, theory.entropy(logits), rtol=1e-3)


def test_the_program_writes_the_file(tmp_path, monkeypatch, capsys):
    path = tmp_path / "tokens.csv"
    monkeypatch.setattr(sys, "argv", ["grouped_batch", "--problems", "2", "--output", str(path)])
    grouped_batch.main()
    table = pd.read_csv(path)
    assert table.row.nunique() == 16 and f"{len(table):,} tokens of 16 responses" in capsys.readouterr().out
    assert list(table) == list(pd.read_csv(ROOT / grouped_batch.COMMITTED, nrows=1))
