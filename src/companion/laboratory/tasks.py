"""Countdown: write an expression with + - * that uses every given number once and makes the target.

A problem is a line of text such as `347=25:` (numbers, target, colon), a response such as `3*7+4$` ($ ends it). Most
problems have several right answers, so that diversity means something. All lengths are fixed by the number of numbers.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement, permutations, product
from math import prod

ALPHABET = "0123456789+-*=:$ "  # a character is a token; its index here is its id
END, PAD = ALPHABET.index("$"), ALPHABET.index(" ")
OPERATORS = "+-*"
LARGEST_TARGET = 99
_EXPRESSION = re.compile(r"[1-9]\d*([+\-*][1-9]\d*)*", re.ASCII)
_PRODUCT = re.compile(r"([+-]?)(\d+(?:\*\d+)*)")


@dataclass(frozen=True, order=True)
class Problem:
    """Numbers from 1 to 9, ascending, and a target from 1 to 99 that some expression of them makes."""

    numbers: tuple[int, ...]
    target: int

    @property
    def prompt(self) -> str:
        """The text that the policy continues."""
        return f"{''.join(map(str, self.numbers))}={self.target:02d}:"


@dataclass(frozen=True)
class Split:
    """Three disjoint lists of problems."""

    training: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]


def prompt_length(size: int) -> int:
    """Tokens in the prompt of a problem with `size` numbers."""
    return size + 4


def response_length(size: int) -> int:
    """Tokens in a well-formed response to a problem with `size` numbers, the end token included."""
    return 2 * size


def encode(text: str) -> list[int]:
    """Token ids of `text`; a character outside `ALPHABET` is a ValueError."""
    if unknown := sorted(set(text) - set(ALPHABET)):
        raise ValueError(f"no token for {unknown} in {text!r}; the alphabet is {ALPHABET!r}")
    return [ALPHABET.index(character) for character in text]


def decode(ids: Sequence[int]) -> str:
    """The text of `ids` up to its end token, which is left out; without an end token, all of it."""
    text = "".join(ALPHABET[i] for i in ids)
    return text.partition("$")[0]


def evaluate(expression: str) -> int | None:
    """The value of numbers joined by + - *, with the usual precedence; None for any other text.

    Nothing is executed: a text that is not wholly of that form is never looked at further.
    """
    if not _EXPRESSION.fullmatch(expression):
        return None
    terms = _PRODUCT.findall(expression)
    return sum((-1 if sign == "-" else 1) * prod(map(int, factors.split("*"))) for sign, factors in terms)


def is_correct(problem: Problem, ids: Sequence[int]) -> bool:
    """Whether a response is ended by the end token, uses each number once, and makes the target."""
    if END not in ids:
        return False
    expression = decode(ids)
    if evaluate(expression) != problem.target:
        return False
    return sorted(map(int, re.findall(r"\d+", expression))) == list(problem.numbers)


@cache
def solutions(size: int) -> dict[Problem, tuple[str, ...]]:
    """Every problem with `size` numbers, and all its right expressions; for sizes 2 to 4 (seconds at 4)."""
    if not 2 <= size <= 4:
        raise ValueError(f"size is {size}, expected 2 to 4 numbers")
    found: dict[Problem, set[str]] = {}
    for numbers in combinations_with_replacement(range(1, 10), size):
        for ordered in set(permutations(numbers)):
            for operators in product(OPERATORS, repeat=size - 1):
                expression = "".join(f"{n}{op}" for n, op in zip(ordered, (*operators, "")))
                target = evaluate(expression)
                if 0 < target <= LARGEST_TARGET:
                    found.setdefault(Problem(numbers, target), set()).add(expression)
    return {problem: tuple(sorted(found[problem])) for problem in sorted(found)}


@cache
def split(size: int, *, held_out: int = 128, seed: int = 0) -> Split:
    """All problems with `size` numbers, shuffled by `seed`: `held_out` for test, as many for validation, the rest.

    Raises:
        ValueError: fewer than three times `held_out` problems.
    """
    problems = list(solutions(size))
    if held_out < 1 or len(problems) < 3 * held_out:
        raise ValueError(f"held_out is {held_out}, expected 1 to {len(problems) // 3} of {len(problems)} problems")
    random.Random(seed).shuffle(problems)
    return Split(tuple(problems[2 * held_out :]), tuple(problems[held_out : 2 * held_out]), tuple(problems[:held_out]))


def random_expression(problem: Problem, rng: random.Random) -> str:
    """The problem's numbers in random order, joined by random operators: well-formed, rarely right."""
    numbers = rng.sample(problem.numbers, len(problem.numbers))
    return "".join(f"{n}{rng.choice(OPERATORS)}" for n in numbers[:-1]) + str(numbers[-1])
