"""The proofs hold, what proves nothing is refused, wrong statements do not compile, the page lists what is proven."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROOFS = ROOT / "proofs"
TEXT = (PROOFS / "EntropyDynamics.v").read_text(encoding="utf-8")
BLOCKS = {  # by name, from its first word to the blank line behind it
    re.split(r"[\s(]", block, maxsplit=2)[1]: block
    for block in re.findall(r"^(?:Definition|Lemma|Theorem) (?:.+\n)+", TEXT, re.M)
}
THEOREMS = re.findall(r"^Theorem (\w+)", TEXT, re.M)
needs_coq = pytest.mark.skipif(shutil.which("coqc") is None, reason="coqc is not installed")


def check(tmp_path, text=TEXT, **more):
    """What the check says of the proofs with `text` for EntropyDynamics.v."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(PROOFS / "Sums.v", source)
    (source / "EntropyDynamics.v").write_text(text, encoding="utf-8")
    command = [sys.executable, PROOFS / "check.py", source, tmp_path / "build"]
    return subprocess.run(command, capture_output=True, encoding="utf-8", **more)


@needs_coq
def test_every_theorem_is_proven(tmp_path):
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "of somebody else").touch()
    done = check(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "build" / "of somebody else").exists()
    assert done.stdout.startswith(f"{len(THEOREMS)} theorems proven") and "sig_forall_dec" in done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "Theorem more : False. Proof. Admitted.",
        "Theorem more : False. Proof. admit. Qed.",
        "Axiom more : False.",
        "Parameter more : False.",
        "Unset Universe Checking.",
    ],
)
def test_what_proves_nothing_is_refused(tmp_path, line):
    done = check(tmp_path, f"{TEXT}\n{line}\n")
    assert done.returncode == 1 and "stands where a proof should" in done.stderr


@needs_coq
def test_an_assumption_is_refused_however_it_is_written(tmp_path):
    done = check(tmp_path, f"{TEXT}\nVariable nothing : 1 = 2.\nTheorem more : 1 = 2.\nProof. exact nothing. Qed.\n")
    assert done.returncode == 1 and done.stderr.strip() == "the theorems assume EntropyDynamics.nothing"


def test_without_coq_it_says_what_to_install(tmp_path):
    done = check(tmp_path, env={"PATH": str(tmp_path)})
    assert done.returncode == 1 and "libcoq-coquelicot" in done.stderr


TWINS = [  # every statement, what it says, and something false
    ("entropy_range", "<= ln (INR V)", "<= 1"),
    ("sum_S", "S z i = 0", "S z i = 1"),
    ("probability_change", "(v i - E", "(v i + E"),
    ("lemma_3_1", "else - p z i * p z k", "else - p z k"),
    ("gradient", "(- Σ i, S", "(Σ i, S"),
    ("covariance_form", "= Cov z", "= - Cov z"),
    ("theorem_3_2", "(- S z k)", "(S z k)"),
    ("theorem_3_3", "(- D z k)", "(- S z k)"),
    ("centred_mean", "p z k * (f k", "/ INR V * (f k"),
    ("corollary_3_4", "D z k = 0", "S z k = 0"),
    ("entropy_bonus", "(fun i => - S z i)", "(fun i => S z i)"),
    ("sign_rule", "exp (- H z) < p z k", "p z k < exp (- H z)"),
    ("lowest_discriminator", "exp (-1 - H z)", "exp (-2 - H z)"),
    ("baseline_is_covariance", "= Cov z", "= - Cov z"),
    ("baseline_nonneg", "0 <= E z (S z)", "E z (S z) <= 0"),
    ("baseline_zero", "p z i = / INR V", "p z i = / 2"),
    ("exact_change", "H z)) - Σ", "H z)) + Σ"),
    ("curvature", "- Var q v - Σ", "- Var q v + Σ"),
    ("curvature_moments", "+ 2 * E z v", "- 2 * E z v"),
    ("remainder_bound", "alpha ^ 2", "alpha ^ 3"),
    ("single_logit_remainder_bound", "eps ^ 2", "eps ^ 3"),
    ("grpo_remainder_bound", "alpha ^ 2", "alpha ^ 3"),
]


@needs_coq
@pytest.mark.parametrize(("name", "true", "false"), TWINS, ids=[name for name, _, _ in TWINS])
def test_a_wrong_statement_does_not_compile(tmp_path, name, true, false):
    statement, proof = BLOCKS[name].split("\nProof.")
    assert true in statement
    text = TEXT.replace(BLOCKS[name], f"{statement.replace(true, false)}\nProof.{proof}")
    assert_it_fails_in(check(tmp_path, text), name, text)


@needs_coq
@pytest.mark.parametrize(
    ("true", "false", "where"),
    [
        ("Definition p (z : nat -> R) i := exp (z i)", "Definition p (z : nat -> R) i := exp (- z i)", "sum_p"),
        ("p z i * (H z + ln (p z i))", "p z i * (H z - ln (p z i))", "sum_S"),
        ("k i := e k i - p z i", "k i := e k i - / INR V", "S_dot_grpo"),
    ],
)
def test_a_wrong_definition_does_not_compile(tmp_path, true, false, where):
    assert TEXT.count(true) == 1
    text = TEXT.replace(true, false)
    assert_it_fails_in(check(tmp_path, text), where, text)


def test_every_theorem_has_a_wrong_twin():
    assert [name for name, _, _ in TWINS] == THEOREMS


def assert_it_fails_in(done, name, text):
    """A proof fails, and not the reading of what was written."""
    assert done.returncode == 1 and "EntropyDynamics.v does not compile" in done.stderr
    assert not re.search("Syntax error|was not found in the current environment", done.stderr)
    line = int(re.search(r'EntropyDynamics\.v", line (\d+)', done.stderr).group(1))
    start = text.count("\n", 0, re.search(rf"^(Lemma|Theorem) {name}\b", text, re.M).start()) + 1
    assert start < line <= start + BLOCKS[name].count("\n"), done.stderr


def test_the_page_lists_every_theorem_and_nothing_else():
    page = (ROOT / "docs" / "proofs.md").read_text(encoding="utf-8")
    listed = [row.split("`")[1] for row in page.splitlines() if row.startswith("| `")]
    assert listed == THEOREMS


def test_functions_that_are_named_exist():
    path = ROOT / "src" / "entropy_dynamics" / "theory.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    page = (ROOT / "docs" / "proofs.md").read_text(encoding="utf-8")
    named = set(re.findall(r"theory\.(?!py)(\w+)", TEXT + page))
    assert "discriminator" in named and named <= functions
