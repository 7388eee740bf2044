"""Encoding, splits, and walks."""

import random

import pytest

from companion.puzzles import tasks, walks
from companion.puzzles.walks import Walk

KINDS = [(3, "countdown"), (4, "countdown"), (5, "walks"), (6, "walks")]


@pytest.mark.parametrize(("size", "task"), KINDS)
def test_splits_never_overlap_and_leave_nothing_out(size, task):
    split = tasks.split(size, task)
    parts = [set(split.training), set(split.validation), set(split.test)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(tasks.solutions(size, task))
    assert len(split.test) == len(split.validation) == 128
    assert tasks.split(size, task, seed=1).test != split.test


def test_bad_arguments_are_named():
    for size, task in ((5, "countdown"), (9, "walks")):
        with pytest.raises(ValueError, match=f"size is {size}, expected one of .* for {task}"):
            tasks.solutions(size, task)
    with pytest.raises(ValueError, match="held_out is 100000"):
        tasks.split(3, held_out=100_000)
    with pytest.raises(ValueError, match="no token for"):
        tasks.encode("3/4")


def test_text_survives_encoding():
    assert tasks.decode(tasks.encode("3*7+4$99")) == "3*7+4"
    assert tasks.decode(tasks.encode("3*7")) == "3*7"


@pytest.mark.parametrize(
    ("moves", "right"),
    [
        ("8866", True),  # (0,0) (1,0) (2,0) (2,1) (2,2)
        ("6688", True),
        ("8686", False),  # by way of (1, 1)
        ("886", False),  # too short
        ("88666", False),
        ("8266", False),  # back to a cell
        ("4886", False),  # off the board
        ("8868", False),  # ends elsewhere
        ("88 6", False),
        ("", False),
    ],
)
def test_walks_by_hand(moves, right):
    problem = Walk((0, 0), (2, 2), (1, 1), 4)
    assert problem.is_solved_by(moves) == right
    assert tasks.is_correct(problem, tasks.encode(moves + "$")) == right
    assert not tasks.is_correct(problem, tasks.encode(moves))


@pytest.mark.parametrize("size", [4, 5])
def test_the_right_walks_are_all_of_them(size):
    solutions = tasks.solutions(size, "walks")
    assert len(solutions) > 1000
    some = random.Random(0).sample(sorted(solutions), 10)
    for problem in some:
        tried = ("".join(moves) for moves in walks.product("2468", repeat=size))
        assert solutions[problem] == tuple(moves for moves in tried if problem.is_solved_by(moves))
        assert len(problem.prompt) == walks.prompt_length(size) and set(problem.prompt) <= set(tasks.ALPHABET)
        assert all(len(moves) + 1 == walks.response_length(size) for moves in solutions[problem])
        assert len({problem.start, problem.goal, problem.blocked}) == 3
    assert len({problem.prompt for problem in solutions}) == len(solutions)
    rng = random.Random(0)
    assert all(set(problem.random_response(rng)) <= set("2468") for problem in some)
