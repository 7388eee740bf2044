"""Countdown: write an expression with + - * that uses every given number once and makes the target.

A problem is a line of text such as `347=25:` (numbers, target, colon), a response such as `3*7+4`. Most problems have
several right answers, so that diversity means something. All lengths are fixed by the number of numbers.
"""

import random
import re
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement, permutations, product
from math import prod

OPERATORS = "+-*"
LARGEST_TARGET = 99
SIZES = (2, 3, 4)  # numbers in a problem
_EXPRESSION = re.compile(r"[1-9]\d*([+\-*][1-9]\d*)*", re.ASCII)
_PRODUCT = re.compile(r"([+-]?)(\d+(?:\*\d+)*)")


@dataclass(frozen=True, order=True)
class Problem:
    """Numbers from 1 to 9, ascending, and a target from 1 to 99 that some expression of them makes."""

    numbers: tuple[int, ...]
    target: int

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return len(self.numbers)

    @property
    def prompt(self) -> str:
        """The text that the policy continues."""
        return f"{''.join(map(str, self.numbers))}={self.target:02d}:"

    def is_solved_by(self, text: str) -> bool:
        """Whether an expression uses each number once and makes the target."""
        return evaluate(text) == self.target and numbers_in(text) == list(self.numbers)

    def random_response(self, rng: random.Random) -> str:
        """The numbers in random order, joined by random operators: well-formed, rarely right."""
        numbers = rng.sample(self.numbers, len(self.numbers))
        return "".join(f"{n}{rng.choice(OPERATORS)}" for n in numbers[:-1]) + str(numbers[-1])


def prompt_length(size: int) -> int:
    """Characters in the prompt of a problem with `size` numbers."""
    return size + 4


def response_length(size: int) -> int:
    """Characters in a well-formed response to a problem with `size` numbers, the end included."""
    return 2 * size


def evaluate(expression: str) -> int | None:
    """The value of numbers joined by + - *, with the usual precedence; None for any other text.

    Nothing is executed: a text that is not wholly of that form is never looked at further.
    """
    if not _EXPRESSION.fullmatch(expression):
        return None
    terms = _PRODUCT.findall(expression)
    return sum((-1 if sign == "-" else 1) * prod(map(int, factors.split("*"))) for sign, factors in terms)


def numbers_in(expression: str) -> list[int]:
    """Its numbers, ascending."""
    return sorted(map(int, re.findall(r"\d+", expression)))


@cache
def solutions(size: int) -> dict[Problem, tuple[str, ...]]:
    """Every problem with `size` numbers, and all its right expressions (seconds at 4)."""
    found: dict[Problem, set[str]] = {}
    for numbers in combinations_with_replacement(range(1, 10), size):
        for ordered in set(permutations(numbers)):
            for operators in product(OPERATORS, repeat=size - 1):
                expression = "".join(f"{n}{op}" for n, op in zip(ordered, (*operators, "")))
                target = evaluate(expression)
                if 0 < target <= LARGEST_TARGET:
                    found.setdefault(Problem(numbers, target), set()).add(expression)
    return {problem: tuple(sorted(found[problem])) for problem in sorted(found)}
