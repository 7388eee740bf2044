"""Countdown: generation, and a scorer that agrees with reasoning-gym's."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.puzzles import countdown, tasks
from companion.puzzles.countdown import Problem
from companion.puzzles.gym import task_module


@pytest.fixture(scope="module")
def gym():
    """reasoning-gym's countdown task."""
    countdown = task_module("games.countdown")
    return countdown.CountdownDataset(countdown.CountdownConfig(size=1, seed=0))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("3", 3),
        ("2+3*4", 14),
        ("2*3-4*5", -14),
        ("9-8-7", -6),
        ("12*3", 36),
        ("", None),
        ("3+", None),
        ("-3", None),
        ("3--4", None),
        ("3**4", None),
        ("03+1", None),
        ("(3)", None),
        ("3 + 4", None),
        ("3+4\n", None),
        ("٣+1", None),
        ("__import__('os')", None),
        ("1+1;x", None),
    ],
)
def test_evaluate_by_hand(expression, value):
    assert countdown.evaluate(expression) == value


def test_the_scorer_agrees_with_reasoning_gym_on_ten_thousand_expressions(gym):
    rng = random.Random(0)
    right = 0
    problems = {size: list(tasks.solutions(size).items()) for size in (3, 4)}
    for _ in range(10_000):
        problem, solutions = rng.choice(problems[rng.choice((3, 4))])
        kind = rng.random()
        if kind < 0.4:
            expression = rng.choice(solutions)
        elif kind < 0.7:
            expression = problem.random_response(rng)
        else:  # other numbers, other lengths
            numbers = [rng.choice((*problem.numbers, rng.randint(1, 30))) for _ in range(rng.randint(1, 5))]
            expression = "".join(f"{n}{rng.choice('+-*')}" for n in numbers)[:-1]
        assert countdown.evaluate(expression) is not None  # only what the grammar has passed reaches the other scorer
        entry = {"metadata": {"numbers": list(problem.numbers), "target": problem.target}}
        ours = tasks.is_correct(problem, tasks.encode(expression + "$"))
        assert ours == (gym.score_answer(expression, entry) == 1.0), (problem, expression)
        right += ours
    assert 3500 < right < 6500


def test_reasoning_gym_executes_what_it_is_given_and_the_grammar_does_not_let_it_through(gym, tmp_path):
    attack = f"__import__('pathlib').Path({str(tmp_path / 'owned')!r}).touch()"
    gym.score_answer(attack, {"metadata": {"numbers": [1], "target": 1}})
    assert (tmp_path / "owned").exists()
    assert countdown.evaluate(attack) is None


ANSWERS = sorted({answer for answers in tasks.solutions(3).values() for answer in answers})


@given(st.sampled_from(sorted(tasks.solutions(3))), st.data())
def test_the_scorer_accepts_solutions_and_nothing_else(problem, data):
    right = st.sampled_from(tasks.solutions(3)[problem])
    text = data.draw(st.one_of(st.text(tasks.ALPHABET, max_size=8), right, st.sampled_from(ANSWERS))) + "$"
    place, character = data.draw(st.integers(-1, len(text) - 1)), data.draw(st.sampled_from(tasks.ALPHABET))
    if place >= 0:  # change one character
        text = text[:place] + character + text[place + 1 :]
    response, ended, _ = text.partition("$")
    expected = bool(ended) and response in tasks.solutions(3)[problem]
    assert tasks.is_correct(problem, tasks.encode(text)) == expected


def test_a_response_without_an_end_is_wrong():
    problem = Problem((1, 2, 3), 6)
    assert tasks.is_correct(problem, tasks.encode("1+2+3$"))
    assert tasks.is_correct(problem, tasks.encode("1+2+3$9"))
    assert not tasks.is_correct(problem, tasks.encode("1+2+3"))
    assert not tasks.is_correct(problem, tasks.encode("$"))
    assert not tasks.is_correct(problem, [])
    assert not tasks.is_correct(problem, tasks.encode("1*2*3*1$"))


@pytest.mark.parametrize("size", [2, 3])
def test_problems_and_solutions_are_complete(size):
    solutions = tasks.solutions(size)
    assert len(solutions) > 100
    for problem, expressions in solutions.items():
        assert list(problem.numbers) == sorted(problem.numbers) and 1 <= problem.target <= 99
        assert all(tasks.is_correct(problem, tasks.encode(text + "$")) for text in expressions)
        assert len(problem.prompt) == countdown.prompt_length(size)
        assert all(len(text) + 1 == tasks.response_length(size) for text in expressions)
    rng = random.Random(0)
    for _ in range(500):  # a random expression with a target in range is among the solutions of its problem
        expression = rng.choice(list(solutions)).random_response(rng)
        value = countdown.evaluate(expression)
        if 1 <= value <= 99:
            numbers = tuple(sorted(int(c) for c in expression if c.isdigit()))
            assert expression in solutions[Problem(numbers, value)]
