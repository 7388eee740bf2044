"""Arithmetic for a language model: two tasks, ways of asking, a scorer, and fixed splits."""

import random
import re
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import NamedTuple

from companion.puzzles.gym import task_module

TASKS = ("addition", "chain_sum")  # two numbers of two digits; reasoning-gym's task, two numbers with + or -
EXAMPLE = "34 + 25 = 59\n"
# Ways to ask for an expression. Which one a model answers is measured (notebook 11); these need no chat template.
FORMATS: dict[str, Callable[[str], str]] = {
    "bare": lambda expression: f"{expression} =",
    "question": lambda expression: f"Question: What is {expression}?\nAnswer:",
    "one example": lambda expression: f"{EXAMPLE}{expression} =",
    "two examples": lambda expression: f"{EXAMPLE}18 + 47 = 65\n{expression} =",
}
# The first number, and what makes another one of it: letters, digits after a sign, thousands, another operation.
_NUMBER = re.compile(r"(?<!\w)(-?(?:\d*\.)?\d+)(\w|[ \t]*%|[.,:^]\d|[ \t]*[-+*/×÷^][ \t]*\d|[ \t]\d{3}(?!\d))?")


class Problem(NamedTuple):
    """An expression and its value."""

    expression: str
    answer: int


def is_correct(problem: Problem, response: str) -> bool:
    """Whether the first number in a response is the value; False where there is none.

    The number is read to its end: 59.9, 59,000, 59 000, 59 / 2, 59 - 60, 59 % and 59abc are not 59. A sentence's sign
    after it is not read ("59.", "59, since"), and 59.0 and 059 are 59. Minus may be a longer dash.
    """
    number = _NUMBER.search(re.sub("[−–]", "-", response))
    return number is not None and number[2] is None and Decimal(number[1]) == problem.answer  # int() refuses long ones


@cache
def split(task: str, *, held_out: int = 64, seed: int = 0) -> tuple[list[Problem], list[Problem]]:
    """(training, test): different problems, shuffled by `seed`, `held_out` of them for test.

    Raises:
        ValueError: an unknown task.
        ImportError: "chain_sum" without reasoning-gym.
    """
    if task == "addition":
        problems = [Problem(f"{a} + {b}", a + b) for a in range(10, 100) for b in range(10, 100)]
    elif task == "chain_sum":
        gym = task_module("arithmetic.chain_sum")
        sizes = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}
        drawn = gym.ChainSumDataset(gym.ChainSumConfig(**sizes, size=4000, seed=0))
        found = {row["metadata"]["expression"]: int(row["answer"]) for row in map(drawn.__getitem__, range(4000))}
        problems = [Problem(expression, answer) for expression, answer in found.items()]
    else:
        raise ValueError(f"unknown task {task!r}; choose from {', '.join(TASKS)}")
    random.Random(seed).shuffle(problems)
    return problems[held_out:], problems[:held_out]
