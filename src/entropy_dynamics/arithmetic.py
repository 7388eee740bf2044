"""Two-digit addition for a language model: prompts in several formats, a scorer, and fixed splits."""

import random
import re
from collections.abc import Callable
from functools import cache

EXAMPLE = "34 + 25 = 59\n"
# Ways to ask. Which one a model answers is measured (notebook 09); these need no chat template.
FORMATS: dict[str, Callable[[int, int], str]] = {
    "bare": lambda a, b: f"{a} + {b} =",
    "question": lambda a, b: f"Question: What is {a} + {b}?\nAnswer:",
    "one example": lambda a, b: f"{EXAMPLE}{a} + {b} =",
    "two examples": lambda a, b: f"{EXAMPLE}18 + 47 = 65\n{a} + {b} =",
}
_NUMBER = re.compile(r"\d+")


def is_correct(a: int, b: int, response: str) -> bool:
    """Whether the first number in a response is a + b; False where there is none."""
    number = _NUMBER.search(response)
    return number is not None and int(number.group()) == a + b


@cache
def split(*, held_out: int = 64, seed: int = 0) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """All pairs of numbers from 10 to 99, shuffled: (training, test), with `held_out` test pairs."""
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    random.Random(seed).shuffle(pairs)
    return pairs[held_out:], pairs[:held_out]
