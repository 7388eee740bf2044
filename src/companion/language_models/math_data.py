"""The data rules of the paper's setting: which problems are trained on, which are held out, and what answers score.

Nothing is dropped silently: every rule says how many rows it took and why.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import FiniteSet, Tuple

HIGHEST_PASS_RATE, LOWEST_PASS_RATE = 15 / 16, 1 / 16  # the paper drops problems at or beyond them
SECONDS = 5  # for parsing and for comparing one answer, as math-verify's own default
BOX = r"\boxed{"
IN_A_BOX = (LatexExtractionConfig(try_extract_without_anchor=False),)  # or, without a box, after the word "answer"
ANNOUNCED = (*IN_A_BOX, ExprExtractionConfig(try_extract_without_anchor=False))


class Filtered(NamedTuple):
    """Rows that passed, and how many did not, by reason."""

    rows: list[dict[str, Any]]
    dropped: Counter


def well_formed(rows: Iterable[Mapping[str, Any]], *, longest_prompt: int) -> Filtered:
    """Rows with a `prompt` (str) of at most `longest_prompt` characters and an `answer` that math-verify can read.

    An answer is one expression, as LaTeX or plain, with or without dollars or a box, and equal to itself; words in it
    stand in \\text{}. Of rows whose prompts differ in white space at most, the first is kept; where their answers
    differ none is, since nothing says which of them is right.
    """

    def fault(row: Mapping[str, Any]) -> str | None:
        prompt, answer = row.get("prompt"), row.get("answer")
        if not isinstance(prompt, str) or not isinstance(answer, str):
            return "malformed: prompt or answer is not text"
        if not prompt.strip():
            return "empty prompt"
        if not answer.strip():
            return "empty answer"
        if len(prompt) > longest_prompt:
            return f"prompt longer than {longest_prompt} characters"
        return "answer that cannot be read as mathematics" if _read(answer) is None else None

    formed = _filter(rows, fault)
    first: dict[str, dict[str, Any]] = {}
    disputed = set()
    for row in formed.rows:
        prompt = _normalised(row["prompt"])
        if not _same(first.setdefault(prompt, row)["answer"], row["answer"]):
            disputed.add(prompt)

    def repetition(row: Mapping[str, Any]) -> str | None:
        prompt = _normalised(row["prompt"])
        if prompt in disputed:
            return "same prompt with different answers"
        return None if row is first[prompt] else "same prompt again"

    single = _filter(formed.rows, repetition)
    return Filtered(single.rows, formed.dropped + single.dropped)


def of_middling_difficulty(rows: Iterable[Mapping[str, Any]]) -> Filtered:
    """Rows whose `pass_rate` is strictly between 1/16 and 15/16; others are too hard, too easy, or have none."""

    def fault(row: Mapping[str, Any]) -> str | None:
        rate = row.get("pass_rate")
        if not isinstance(rate, int | float) or not 0 <= rate <= 1:
            return "no pass rate within 0 to 1"
        if rate >= HIGHEST_PASS_RATE:
            return "pass rate of 15/16 or more"
        return "pass rate of 1/16 or less" if rate <= LOWEST_PASS_RATE else None

    return _filter(rows, fault)


def _filter(rows: Iterable[Mapping[str, Any]], fault) -> Filtered:
    kept, dropped = [], Counter()
    for row in rows:
        if (reason := fault(row)) is None:
            kept.append(dict(row))
        else:
            dropped[reason] += 1
    return Filtered(kept, dropped)


def split(rows: Sequence[dict[str, Any]], *, held_out: int, seed: int = 0) -> tuple[list[dict], list[dict]]:
    """(training, held out): all rows of `held_out` prompts drawn by `seed`, the same for the same rows in any order.

    Prompts that differ in white space at most are one prompt, so none stands on both sides.

    Raises:
        ValueError: not more prompts than are to be held out.
    """
    by_prompt = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["prompt"], row["answer"])):
        by_prompt[_normalised(row["prompt"])].append(row)
    groups = list(by_prompt.values())
    if not 0 < held_out < len(groups):
        raise ValueError(f"held_out is {held_out}, expected 1 to {len(groups) - 1} of {len(groups)} different prompts")
    random.Random(seed).shuffle(groups)
    return list(chain(*groups[held_out:])), list(chain(*groups[:held_out]))


def _normalised(prompt: str) -> str:
    return " ".join(prompt.split())


class Scores(NamedTuple):
    """Rewards of a batch of responses, and what was seen on the way."""

    rewards: list[float]  # 1 for a right answer, else 0
    seen: Counter  # responses by what became of them


def score(responses: Sequence[str], answers: Sequence[str], *, longest: int) -> Scores:
    """Compare the answer of each response with the right one by math-verify, within its time limits.

    The answer of a response is its last box (unless "final answer is" and LaTeX follow), or its last expression where
    it has no box; a box that is not closed is no answer. Where the right answer is a set or a tuple, boxes that stand
    close together, such as \\boxed{2} and \\boxed{3}, may also give it together; (2, 3) is an interval. Units are not
    compared, and 9% equals 9. No response to a right answer that cannot be read (see `well_formed`) is right.

    A response longer than `longest` characters is scored on its last `longest`, and counted. What was cut is no answer:
    without a box only an expression after the word "answer" counts there, and boxes do not count together.

    math-verify's limits use signals, so call this from a process's main thread.

    Raises:
        ValueError: not as many answers as responses, or `longest` is not positive.
    """
    if len(responses) != len(answers):
        raise ValueError(f"{len(responses)} responses for {len(answers)} answers")
    if longest < 1:
        raise ValueError(f"longest is {longest}, expected 1 or more characters")
    rewards, seen = [], Counter()
    for response, answer in zip(responses, answers):
        if len(response) > longest:
            seen["longer than the limit"] += 1
        expected = _read(answer)
        found = _answers(response, longest, several=isinstance(expected, FiniteSet | Tuple))
        right = expected is not None and _equal(expected, found)
        if expected is None:
            seen["right answer that cannot be read"] += 1
        else:
            seen["right" if right else "wrong" if found else "no answer found"] += 1
        rewards.append(float(right))
    return Scores(rewards, seen)


def _answers(response: str, longest: int, *, several: bool) -> list:
    """The values that a response gives, as alternatives."""
    response = re.sub(r"\\f?box(ed)?\s*\{", lambda _: BOX, response)
    end, cut = response[-longest:], len(response) > longest
    if BOX not in response:
        return parse(end, *([ANNOUNCED] if cut else []), parsing_timeout=SECONDS)
    if BOX not in end:
        return []
    last = BOX.join(end.rsplit(BOX, 2)[-2:])  # math-verify reads close boxes as one set; now there is one box
    if re.search(r"\d[eE][+-]?\d", last.partition(BOX)[2].partition("}")[0]):
        return []  # math-verify takes 1e5 for 5 e
    return _boxed(last) + (_boxed(end) if several and not cut else [])


def _boxed(text: str) -> list:
    """The value in a text's last box and its LaTeX; the LaTeX alone, or nothing, where it has no value.

    Thousands may be set apart by thin spaces or braced commas, of which math-verify would make a product.
    """
    text = re.sub(r"(?<=\d)(\\[,!:;]|\{,\}|~)(?=\d{3}(?!\d))", "", text)
    return parse(text, IN_A_BOX, extraction_mode="first_match", parsing_timeout=SECONDS)


def _read(answer: str) -> Any:
    """The value of a right answer, which is one expression and may be bare LaTeX; None where it cannot be read."""
    match _boxed(f"{BOX}{answer}}}"):
        case value, latex if not _misread(latex) and _equal(value, [value]):
            return value
    return None


def _misread(latex: str) -> bool:
    """Whether math-verify makes a product or a sum of what is none.

    It does so with the letters of words outside \\text{}, numbers side by side, 1e5, and a text beside a number.
    """
    latex = re.sub(r"\\text\s*\{[^{}]*\}", '"', latex)
    latex = re.sub(r"\\(?:(?:begin|end)\{\w+\}|[A-Za-z]+)", "@", latex)
    return bool(re.search(r'[A-Za-z]{3}|pi|ln|\d(\s|~|\\[,:;])+\d|\d[eE][+-]?\d|[\d}]\s*"|"\s*\d', latex))


def _same(answer: str, other: str) -> bool:
    return answer == other or _equal(_read(answer), [_read(other)])


def _equal(right: Any, found: list) -> bool:
    return verify([right], found, timeout_seconds=SECONDS)
