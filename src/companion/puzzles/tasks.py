"""The tasks as a policy meets them: characters as tokens, right or wrong, and problems that are held out."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from companion.puzzles import countdown, walks

ALPHABET = "0123456789+-*=:$ "  # a character is a token; its index here is its id
END, PAD = ALPHABET.index("$"), ALPHABET.index(" ")
TASKS: dict[str, ModuleType] = {"countdown": countdown, "walks": walks}
Problem = countdown.Problem | walks.Walk


@dataclass(frozen=True)
class Split:
    """Three disjoint lists of problems."""

    training: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]


def encode(text: str) -> list[int]:
    """Token ids of `text`; a character outside `ALPHABET` is a ValueError."""
    if unknown := sorted(set(text) - set(ALPHABET)):
        raise ValueError(f"no token for {unknown} in {text!r}; the alphabet is {ALPHABET!r}")
    return [ALPHABET.index(character) for character in text]


def decode(ids: Sequence[int]) -> str:
    """The text of `ids` up to its end token, which is left out; without an end token, all of it."""
    text = "".join(ALPHABET[i] for i in ids)
    return text.partition("$")[0]


def is_correct(problem: Problem, ids: Sequence[int]) -> bool:
    """Whether a response is ended by the end token and solves the problem."""
    if END not in ids:
        return False
    return problem.is_solved_by(decode(ids))


def solutions(size: int, task: str = "countdown") -> dict[Problem, tuple[str, ...]]:
    """Every problem of a size, and all its right answers.

    Raises:
        ValueError: a size that the task does not have.
    """
    if size not in TASKS[task].SIZES:
        raise ValueError(f"size is {size}, expected one of {TASKS[task].SIZES} for {task}")
    return TASKS[task].solutions(size)


def response_length(size: int, task: str = "countdown") -> int:
    """Tokens in a well-formed response, the end token included."""
    return TASKS[task].response_length(size)


@cache
def split(size: int, task: str = "countdown", *, held_out: int = 128, seed: int = 0) -> Split:
    """All problems of a size, shuffled by `seed`: `held_out` for validation, as many for test, the rest.

    Raises:
        ValueError: fewer than three times `held_out` problems.
    """
    problems = list(solutions(size, task))
    if held_out < 1 or len(problems) < 3 * held_out:
        raise ValueError(f"held_out is {held_out}, expected 1 to {len(problems) // 3} of {len(problems)} problems")
    random.Random(seed).shuffle(problems)
    return Split(tuple(problems[2 * held_out :]), tuple(problems[:held_out]), tuple(problems[held_out : 2 * held_out]))
