"""Every rule keeps what it should, and says what it took."""

import pytest

from companion.language_models.math_data import of_middling_difficulty, score, split, well_formed

ROWS = [
    {"prompt": "What is 1 + 1?", "answer": "2"},
    {"prompt": "What is a half?", "answer": r"\frac{1}{2}"},
    {"prompt": "", "answer": "3"},
    {"prompt": "What is 3?", "answer": "  "},
    {"prompt": "What is 4?", "answer": None},
    {"answer": "5"},
    {"prompt": "x" * 41, "answer": "6"},
]


def test_malformed_rows_are_counted_by_reason():
    kept, dropped = well_formed(ROWS, longest_prompt=40)
    assert kept == ROWS[:2]
    assert dropped == {
        "empty prompt": 1,
        "empty answer": 1,
        "malformed: prompt or answer is not text": 2,
        "prompt longer than 40 characters": 1,
    }
    assert len(kept) + dropped.total() == len(ROWS)


def test_problems_that_are_nearly_always_or_never_solved_are_dropped():
    rates = [0.0, 1 / 16, 2 / 16, 0.5, 14 / 16, 15 / 16, 1.0, None, 1.5]
    kept, dropped = of_middling_difficulty([{"pass_rate": rate} for rate in rates])
    assert [row["pass_rate"] for row in kept] == [2 / 16, 0.5, 14 / 16]
    assert dropped == {"pass rate of 1/16 or less": 2, "pass rate of 15/16 or more": 2, "no pass rate within 0 to 1": 2}


def test_the_split_does_not_depend_on_the_order_of_the_rows():
    rows = [{"prompt": f"p{i}", "answer": str(i)} for i in range(30)]
    training, held_out = split(rows, held_out=7)
    assert len(training) == 23 and len(held_out) == 7
    assert sorted(r["prompt"] for r in training + held_out) == sorted(r["prompt"] for r in rows)
    assert split(rows[::-1], held_out=7) == (training, held_out)
    assert split(rows, held_out=7, seed=1)[1] != held_out
    with pytest.raises(ValueError, match="held_out is 30, expected 1 to 29"):
        split(rows, held_out=30)


def test_answers_are_compared_as_mathematics():
    responses = [r"so \boxed{0.5}", "The answer is 3.", "I do not know", "", "7" * 50 + r" hence \boxed{4}"]
    scores = score(responses, [r"\frac{1}{2}", "2", "1", "1", "4"], longest=20)
    assert scores.rewards == [1, 0, 0, 0, 1]
    assert scores.seen == {"right": 2, "wrong": 1, "no answer found": 2, "longer than the limit": 1}
    with pytest.raises(ValueError, match="1 responses for 2 answers"):
        score(["1"], ["1", "2"], longest=10)
