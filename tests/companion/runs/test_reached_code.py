"""Which code a computation is said to run through, on small made-up modules."""

import ast

import pytest

from companion.runs import reached_code
from companion.runs.reached_code import reached

A = '''
"""Module docstring."""
import torch
from math import exp, log as ln
from entropy_dynamics import b
from entropy_dynamics.c import helper as renamed, Unused

SIZE = 3
TABLE = {"one": one, "two": two}

def entry(x):
    """Docstring."""
    return one(x) + b.used(SIZE) + torch.exp(x) + exp(x)

def one(x):
    return renamed(x)

def two(x):
    return TABLE["two"]

def stranger(x):
    return b.unused(x)
'''
B = """
def used(x): return x
def unused(x): return x
register()
"""
C = """
from entropy_dynamics.d import helper
class Unused: pass
"""
D = """
LIMIT: int = 3
def helper(x): return min(x, LIMIT)
"""


def trees(**changed):
    texts = {"a": A, "b": B, "c": C, "d": D} | changed
    return {name: ast.parse(text.strip()) for name, text in texts.items()}


def code(entries=(("a", "entry"),), *, tables=frozenset(), without=frozenset(), **changed):
    return reached(trees(**changed), entries, tables=tables, without=without)


def test_what_counts_and_what_does_not():
    before = code()
    assert set(before) == {"a", "b", "c", "d"}
    assert code(a=A.replace('"""Docstring."""', '"""Another."""  # said better')) == before
    assert code(a=A.replace("return b.unused(x)", "return 0")) == before
    assert code(b=B.replace("def unused(x): return x", "def unused(x): return 2")) == before
    assert code(c=C.replace("pass", "x = 1")) == before
    assert code(a=A.replace("log as ln", "log1p as ln")) == before
    for name, old, new in (
        ("a", "return one(x)", "return -one(x)"),
        ("a", "SIZE = 3", "SIZE = 4"),
        ("a", "import exp,", "import expm1 as exp,"),
        ("a", "import torch", "import numpy as torch"),
        ("b", "def used(x): return x", "def used(x): return 2"),
        ("b", "register()", "register(1)"),  # a statement at the top runs for whoever uses the module
        ("d", "min(x, LIMIT)", "max(x, LIMIT)"),  # reached through a name that c imports
        ("d", "LIMIT: int = 3", "LIMIT: int = 4"),
    ):
        text = {"a": A, "b": B, "c": C, "d": D}[name]
        assert text.count(old) == 1
        assert code(**{name: text.replace(old, new)}) != before, (name, old)


def test_a_table_does_not_reach_what_it_lists():
    entries = [("a", "two")]
    assert "d" in code(entries)  # by way of the table and one()
    assert set(code(entries, tables={("a", "TABLE")})) == {"a"}


def test_modules_can_be_left_out():
    assert set(code(without={"d"})) == {"a", "b", "c"}


def test_imports_that_hide_names_are_refused():
    with pytest.raises(ImportError, match=r"write from \.\.\. import"):
        code(a="import entropy_dynamics.b\ndef entry(): pass")
    with pytest.raises(ImportError, match="uses the module b in a way that hides"):
        code(a="from entropy_dynamics import b\ndef entry(): return getattr(b, 'used')")
    with pytest.raises(ImportError, match="imported from two places"):
        code(a="from entropy_dynamics.b import used\nfrom entropy_dynamics.c import used\ndef entry(): pass")


def test_sources_are_read_as_far_as_imports_lead(monkeypatch, tmp_path):
    folder = tmp_path / "entropy_dynamics"
    folder.mkdir()
    monkeypatch.setattr(reached_code, "PACKAGE", folder)
    (folder / "x.py").write_text("def f():\n    from entropy_dynamics.y import f\n")
    (folder / "y.py").write_text("def f(): pass\n")
    (folder / "z.py").write_text("broken(\n")
    assert set(reached_code.read_sources(["x"])) == {"x", "y"}
