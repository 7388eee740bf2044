"""Every exercise accepts its solution, refuses plausible wrong answers with a sentence, and stands in a notebook."""

import inspect
import itertools
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from companion.checks import exercises

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
PUBLIC = {
    name
    for name, function in inspect.getmembers(exercises, inspect.isfunction)
    if function.__module__ == exercises.__name__ and not name.startswith("_") and name != "check"
}


def late_batch():
    """Tokens as of a late batch: most of them sure, a few rare ones far below."""
    generator = np.random.default_rng(0)
    s = np.where(generator.random(4000) < 0.1, generator.normal(-0.1, 0.05, 4000), generator.normal(0.02, 0.02, 4000))
    return pd.DataFrame({"discriminator": s, "advantage": generator.choice([-1.0, 1.0], 4000)})


def clipped_tokens():
    """Three rewarded tokens that clip-higher frees, two of them likely, and others that it does not touch."""
    rows = [(1.0, 1.21, 0.2), (1.0, 1.25, 0.1), (1.0, 1.27, -0.1), (1.0, 1.5, -9.0), (-1.0, 0.5, -9.0)]
    return pd.DataFrame(rows, columns=["advantage", "ratio", "centred"])


EIGHT = ([-0.3, -0.3, 0.3, 0, 0, 0, 0, 0.05], [-1, 1, -1, 1, -1, 1, 1, 1])
GIVEN = {"late": late_batch(), "clipped": clipped_tokens(), "np": np, "exercises": exercises}
WRONG = [  # exercise, wrong answer, what is given, a part of the sentence
    ("rare_enough", ([0.3, 0.7], 1), (), "is not below e^-H"),
    ("rare_enough", ([0.1, 0.9], 0), (), "should be 0.3 or more"),
    ("rare_enough", ([0.3, 0.3], 0), (), "sum to 1"),
    ("rare_enough", ([0.3, 0.7], 2), (), "from 0 to 1"),
    ("rare_enough", 0.3, (), "2 parts"),
    ("lowest_at_one_nat", np.exp(-1), (), "can be -0.1353"),
    ("lowest_at_one_nat", "e", (), "should be a number"),
    ("push_too_far", ([0.3, 0.7], 0, 0.1), (), "the sign is right"),
    ("push_too_far", ([0.3, 0.7], 0, -3.0), (), "not between 0"),
    ("between_the_theorems", ([0.5, 0.4, 0.1], 0), (), "should be below E_p"),
    ("between_the_theorems", ([0.5, 0.4, 0.1], 2), (), "should be likelier"),
    ("best_penalty", 2, ([0.5, 0.4, 0.1], -0.5), "another token does more"),
    ("idle_groups", 1 - (15 / 16) ** 8, (1 / 16, 8), "all 8 responses are alike"),
    ("another_zero", [0.5, 0.4, 0.1], ([0.5, 0.4, 0.1],), "the policy itself"),
    ("another_zero", [1 / 3, 1 / 3, 1 / 3], ([0.5, 0.4, 0.1],), "should be zero to three digits"),
    ("tokens_to_see_a_bias", 256, (0.01, 0.16), "1.00 standard errors"),
    ("colder_sampler", "at", (0.7,), "likelier tokens come more often"),
    ("colder_sampler", "below", (0.7,), "likelier tokens come more often"),
    ("short_radius", ([0.6, 0.3, 0.1], 0), (0.1,), "should be nearer to zero"),
    ("bounded_error", 0.1 * (0.7 + 0.2 * np.log(50_000)), (0.1, 50_000), "alpha is squared"),
    ("bounded_error", 0.01 * (0.7 + 0.2 * np.log10(50_000)), (0.1, 50_000), "the log natural"),
    ("entropy_sinks", [(">", ">"), ("<", ">")], (), "which is positive"),
    ("entropy_sinks", [(">", ">")], (), "two pairs"),
    ("ledger_entry", 0.01, ([0.1, -0.1, 0.2], [0.2, -0.3, -0.1]), "sign is wrong"),
    ("ledger_entry", -0.03, ([0.1, -0.1, 0.2], [0.2, -0.3, -0.1]), "that is the sum"),
    ("ledger_entry", 0.5, ([0.1, -0.1, 0.2], [0.2, -0.3, -0.1]), "is not -mean"),
    ("best_to_mask", 2, ([1, 1, -1, -1], [0.3, -0.2, 0.25, -0.1]), "another one does more"),
    ("clip_higher_on_policy", "raises", (), "sampled just now"),
    ("clip_higher_here", "raises", (clipped_tokens(),), "67% of the 3 rewarded tokens"),
    ("threshold_for_a_share", 8.5, (late_batch(), 0.02), "too few"),
    ("threshold_for_a_share", 0.5, (late_batch(), 0.02), "too many"),
    ("masked_by_both_sides_only", [0, 1, 2], EIGHT, "both mask"),
    ("masked_by_both_sides_only", [1, 7], EIGHT, "both keep"),
    ("masked_by_both_sides_only", [1], EIGHT, "1 more"),
]


def posed():
    """(exercise, its cell, the code of its solution) for every exercise that stands in a notebook."""
    found = []
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        cells = nbformat.read(path, 4).cells
        for cell, after in itertools.pairwise(cells):
            if name := re.search(r"exercises\.check\(\s*exercises\.(\w+)", cell.source):
                solution = re.match(
                    r"<details><summary>Solution</summary>\n\n```python\n(.*?)\n```", after.source, re.S
                )
                assert solution, f"{path.name}: no solution behind {name[1]}"
                found.append((name[1], cell.source, solution[1]))
    return found


@pytest.mark.parametrize(
    "name, answer, given, sentence", WRONG, ids=lambda value: value if isinstance(value, str) else ""
)
def test_wrong_answers_are_refused_with_a_sentence(name, answer, given, sentence, capsys):
    exercises.check(getattr(exercises, name), answer, *given)
    said = capsys.readouterr().out
    assert said.startswith("Not yet: ") and sentence in said and said.endswith(".\n")


def test_every_exercise_has_a_wrong_answer_and_a_place():
    assert {name for name, *_ in WRONG} == PUBLIC
    assert sorted(name for name, *_ in posed()) == sorted(PUBLIC)


@pytest.mark.parametrize("name, cell, solution", posed(), ids=[name for name, *_ in posed()])
def test_the_solution_is_right_and_the_cell_runs_without_an_answer(name, cell, solution, capsys):
    exec(cell, dict(GIVEN))
    assert capsys.readouterr().out == "Not answered yet.\n"
    scope = dict(GIVEN)
    exec(solution, scope)
    exec(re.sub(r"^answer = None.*$", "", cell, flags=re.M), scope)
    assert capsys.readouterr().out.startswith("Right: ")
