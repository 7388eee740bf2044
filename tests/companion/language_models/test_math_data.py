"""Every rule keeps what it should, and says what it took."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_prompts_stand_on_one_side_of_a_split():
    rows = [
        {"prompt": f"What  is {i}?" if j else f"What is {i}? ", "answer": str(j)} for i in range(5) for j in range(4)
    ]
    training, held_out = split(rows, held_out=2)
    assert len(training) == 12 and len(held_out) == 8
    assert not {r["prompt"].split()[2] for r in training} & {r["prompt"].split()[2] for r in held_out}
    with pytest.raises(ValueError, match="held_out is 5, expected 1 to 4 of 5 different prompts"):
        split(rows, held_out=5)


def test_repeated_prompts_are_counted_and_no_answer_is_chosen_among_several():
    rows = [
        {"prompt": "What is a half?", "answer": "0.5"},
        {"prompt": "What is 2?", "answer": "2"},
        {"prompt": " What is\na half? ", "answer": r"\frac{1}{2}"},
        {"prompt": "What is 2?", "answer": "2"},
        {"prompt": "Solve it.", "answer": "1"},
        {"prompt": "Solve it.", "answer": "1"},
        {"prompt": "Solve it.", "answer": "2"},
    ]
    kept, dropped = well_formed(rows, longest_prompt=40)
    assert kept == rows[:2]
    assert dropped == {"same prompt again": 2, "same prompt with different answers": 3}


# A gold answer in terms of two primes; with other primes, it has another value.
FORMS = [
    r"P\sqrt{Q}",
    r"P+\sqrt{Q}",
    r"\sqrt[P]{Q}",
    r"\frac{\sqrt{P}}{Q}",
    r"P^{Q}",
    r"P^{-Q}",
    r"2^{P}-Q",
    r"\frac{P}{Q}",
    r"-\frac{P}{Q}",
    r"P\frac{1}{Q}",
    r"(-\infty, P]",
    r"[-P, Q)",
    r"(-\infty, -P) \cup (Q, \infty)",
    r"\{P, -Q\}",
    "P, -Q",
    "P and -Q",
    r"P \pm \sqrt{Q}",
    "(-P, Q, 0)",
    "(P, -Q)",
    "P! + Q",
    "2P!",
    r"\binom{2P}{Q}",
    "P+Qi",
    r"\sqrt{P} - Qi",
    "-Pi",
    "Px",
    "Px^{Q} + 1",
    r"\frac{x + P}{x - Q}",
    "y = Px + Q",
    "-P < x < Q",
    r"P\pi",
    r"\frac{P\pi}{Q}",
    r"\frac{\pi}{P} + Qk\pi",
    "P:Q",
    r"\ln P",
    r"\log_P Q",
    r"P \times 10^{Q}",
    r"\begin{pmatrix} P & 0 \\ 1 & Q \end{pmatrix}",
    r"\text{P times}",
]
PLAIN = ["P", "-P", "P.Q5", "2P{,}00Q", r"P \text{ cm}", r"P\ \mathrm{cm}^2", r"P\%", r"P^\circ", r"\$P", "$P$"]
PRIMES = st.lists(st.sampled_from((2, 3, 5, 7)), min_size=3, max_size=3, unique=True)


def reward(box, answer):
    return score([rf"Hence it is \boxed{{{box}}}."], [answer], longest=99).rewards[0]


@pytest.mark.parametrize("form", FORMS + PLAIN)
@settings(max_examples=4)
@given(PRIMES)
def test_an_answer_in_latex_is_one_expression(form, primes):
    p, q, other = map(str, primes)
    answer, neighbour = (form.replace("P", first).replace("Q", q) for first in (p, other))
    rows = [{"prompt": "?", "answer": answer}]
    assert well_formed(rows, longest_prompt=9) == (rows, {})
    assert reward(answer, answer) == 1
    assert reward(neighbour, answer) == reward(answer, neighbour) == 0
    if form not in PLAIN:
        assert not any(reward(number, answer) for number in re.findall(r"-?\d+", answer))


UNREADABLE = [
    "nonsense words",
    "see figure 5",
    "???",
    "-",
    "$",
    "\\",
    "}",
    r"\frac{",
    "(2",
    r"\frac{3}{0}",  # not equal to itself
    r"0.\overline{3}",  # text for math-verify, no number
    "The answer is $3$.",
    "yes",  # the letters multiplied
    "sin x",
    "2pi",
    "60 miles per hour",
    "3 1/2",  # 4/2
    "1 234",  # 235
    "1e5",  # 5e
    r"3\text{ to }4",
]


@pytest.mark.parametrize("answer", UNREADABLE)
def test_what_cannot_be_read_is_counted(answer):
    kept, dropped = well_formed([{"prompt": "?", "answer": answer}], longest_prompt=9)
    assert kept == [] and dropped == {"answer that cannot be read as mathematics": 1}
    scores = score([rf"\boxed{{{answer}}}"], [answer], longest=99)
    assert scores == ([0], {"right answer that cannot be read": 1})


def test_answers_are_compared_as_mathematics():
    responses = [r"so \boxed{0.5}", "The answer is 3.", "I do not know", "", "7" * 50 + r" hence \boxed{4}"]
    scores = score(responses, [r"\frac{1}{2}", "2", "1", "1", "4"], longest=20)
    assert scores.rewards == [1, 0, 0, 0, 1]
    assert scores.seen == {"right": 2, "wrong": 1, "no answer found": 2, "longer than the limit": 1}
    with pytest.raises(ValueError, match="1 responses for 2 answers"):
        score(["1"], ["1", "2"], longest=10)


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        (r"\boxed{3} ... no: \boxed{4}", "4", True),
        (r"\boxed{3} ... no: \boxed{4}", "3", False),
        (r"$x = \boxed{3}$ and $y = \boxed{4}$", "4", True),
        (r"\boxed{\boxed{4}}", "4", True),
        (r"$\boxed{12.5}$\%", r"12.5\%", True),
        (r"7, so \boxed{???} or 7", "7", False),
        (r"\boxed{3} and \boxed{1, 3", "3", False),  # not closed
        (r"\boxed{3} and \boxed{2}", r"\{2, 3\}", True),
        (r"$\boxed{2}$ or $\boxed{3}$", "2, 3", True),
        (r"\boxed{2, 5}, no: \boxed{2, 3}", "2, 3", True),
        (r"\boxed{3}", "2, 3", False),
        (r"\boxed{1}, \boxed{3}, \boxed{2}", "(1, 3, 2)", True),
        (r"\boxed{1}, \boxed{2}, \boxed{3}", "(1, 3, 2)", False),
        (r"\boxed {5}", "5", True),
        (r"\fbox{5}, no: \fbox{6}", "6", True),
        (r"\boxed{10\,000}", "10000", True),
        (r"\boxed{10\,000}", "0", False),  # the product of both numbers
        (r"\boxed{10000}", r"10{,}000", True),
        (r"\boxed{1e5}", "5e", False),
    ],
)
def test_the_last_box_counts_and_several_for_several_values(response, answer, right):
    assert score([response], [answer], longest=99).rewards == [right]


@pytest.mark.parametrize(
    ("response", "part"),
    [
        (r"\boxed{12345}", "345"),
        (r"\boxed{1, 2, 345}", "345"),
        (r"\boxed{1}, \boxed{2}, \boxed{345}", "2, 345"),
        (r"\boxed{7} is not 345", "345"),
        ("It is 12345", "345"),
        ("$1, 2, 345$", "345"),
        ("$$\n1,\n2,\n345\n$$", "345"),
        ("The answer is 12345", "345"),
        ("The answer is $1, 2, 345$", "345"),
    ],
)
def test_no_part_of_an_answer_is_right(response, part):
    scores = [score([response], [part], longest=longest) for longest in range(1, len(response) + 1)]
    assert not any(s.rewards[0] for s in scores)
    assert [s.seen["longer than the limit"] for s in scores] == [1] * (len(response) - 1) + [0]


def test_the_end_of_a_long_response_is_read():
    responses = ["..." * 9 + end for end in (r"\boxed{4}", "Answer: 4", "The answer is $4$.", "It is 4.")]
    assert score(responses, ["4"] * 4, longest=20).rewards == [1, 1, 1, 0]
    with pytest.raises(ValueError, match="longest is 0, expected 1 or more"):
        score(["4"], ["4"], longest=0)
