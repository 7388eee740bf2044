"""The data rules of the paper's setting: which problems are trained on, which are held out, and what answers score.

Nothing is dropped silently: every rule says how many rows it took and why.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from math_verify import parse, verify

HIGHEST_PASS_RATE, LOWEST_PASS_RATE = 15 / 16, 1 / 16  # the paper drops problems at or beyond them
SECONDS = 5  # for parsing and for comparing one answer, as math-verify's own default


class Filtered(NamedTuple):
    """Rows that passed, and how many did not, by reason."""

    rows: list[dict[str, Any]]
    dropped: Counter


def well_formed(rows: Iterable[Mapping[str, Any]], *, longest_prompt: int) -> Filtered:
    """Rows with a `prompt` (str) of at most `longest_prompt` characters and an `answer` that math-verify can read."""

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
        return None if _read(answer) else "answer that cannot be read as mathematics"

    return _filter(rows, fault)


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
    """(training, held out): `held_out` rows drawn by `seed`, the same for the same rows in any order.

    Raises:
        ValueError: not more rows than are to be held out.
    """
    if not 0 < held_out < len(rows):
        raise ValueError(f"held_out is {held_out}, expected 1 to {len(rows) - 1} of {len(rows)} rows")
    ordered = sorted(rows, key=lambda row: (row["prompt"], row["answer"]))
    random.Random(seed).shuffle(ordered)
    return ordered[held_out:], ordered[:held_out]


class Scores(NamedTuple):
    """Rewards of a batch of responses, and what was seen on the way."""

    rewards: list[float]  # 1 for a right answer, else 0
    seen: Counter  # responses by what became of them


def score(responses: Sequence[str], answers: Sequence[str], *, longest: int) -> Scores:
    """Compare the last answer in each response with the right one by math-verify, within its time limits.

    A response longer than `longest` characters is scored on its last `longest`, where its answer stands, and counted.
    math-verify's limits use signals, so call this from a process's main thread.
    """
    if len(responses) != len(answers):
        raise ValueError(f"{len(responses)} responses for {len(answers)} answers")
    rewards, seen = [], Counter()
    for response, answer in zip(responses, answers):
        if len(response) > longest:
            seen["longer than the limit"] += 1
        found = parse(response[-longest:], parsing_timeout=SECONDS)
        right = bool(found) and verify(_read(answer), found, timeout_seconds=SECONDS)
        seen["right" if right else "wrong" if found else "no answer found"] += 1
        rewards.append(float(right))
    return Scores(rewards, seen)


def _read(text: str) -> list:
    """The value of a right answer, which may be bare LaTeX."""
    return parse(text, parsing_timeout=SECONDS) or parse(f"${text}$", parsing_timeout=SECONDS)
