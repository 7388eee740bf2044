"""Replay notices wrong code: each mutant changes one sign or constant and must change a replay; survivors are named."""

import ast
import csv
import importlib
import inspect
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import FunctionType

import pytest

from companion.provenance import ROOT
from companion.runs import replay
from companion.runs.records import on_this_machine
from companion.runs.store import Store
from entropy_dynamics import methods

with Path(__file__).with_name("mutants.csv").open(encoding="utf-8", newline="") as file:
    MUTANTS = list(csv.DictReader(file))
REFERENCES = replay.references()
SURVIVORS = {
    "clip_cov: constant": "late there are fewer candidates than may be drawn, so that all of them are",
    "scorer: any end": "a response without its end token has one character too many to be right otherwise",
}
# On another processor only the first batch must be the same, within the tolerance. These act little in it, or later.
SMALL = {
    "aspo: constant",
    "ce_gppo: other constant",
    "cispo: constant",
    "control: constant",
    "entropy_bonus: constant",
    "kl_cov: coefficient",
    "kl_cov: constant",
    "repo: constant",
    "sapo: sign",
    "sign_weights: constant",
    "steer: constant",
    "steer: sign",
    "advantage_reweighting: constant",
    "w_reinforce: constant",
    "gspo: constant",
    "advantage: eps",
    "gradient clipping: constant",
}


def mutated(module, definition, old, new):
    """The function of a module with one piece of its text exchanged."""
    source = inspect.getsource(module)
    (node,) = [n for n in ast.parse(source).body if getattr(n, "name", "") == definition]
    text = ast.get_source_segment(source, node)
    if node.decorator_list:
        lines = source.splitlines()
        text = "\n".join(lines[node.decorator_list[0].lineno - 1 : node.end_lineno])
    assert text.count(old) >= 1, f"{definition} has no {old!r}"
    namespace = module.__dict__.copy()
    exec(compile(text.replace(old, new), f"mutant of {definition}", "exec"), namespace)
    return namespace[definition]


def put_in_place_of(original, other):
    """Exchange a function wherever the packages hold it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("companion", "entropy_dynamics"):
            for key, value in list(vars(module).items()):
                if value is original:
                    setattr(module, key, other)
    for name, rule in methods.RULES.items():
        if rule is original:
            methods.RULES[name] = other


def first_that_differs(original, other, names):
    """The first replay that notices the exchange, or None; the exchange is undone."""
    store = Store(ROOT / "data" / "replay", ROOT / "data" / "runs")
    put_in_place_of(original, other)
    try:
        for name in names:
            try:
                if replay.check(REFERENCES[name], store)[0] in ("DIFFERS", "far"):
                    return name
            except FloatingPointError as error:  # a policy that has gone to infinity is noticed, too
                return f"{name} ({type(error).__name__})"
        return None
    finally:
        put_in_place_of(other, original)


def try_mutant(mutant):
    module = importlib.import_module(mutant["module"])
    original = getattr(module, mutant["definition"])
    other = mutated(module, mutant["definition"], mutant["old"], mutant["new"])
    return first_that_differs(original, other, [n for n in REFERENCES if n.startswith(mutant["replays"])])


def try_plain_grpo(rule):
    """Every rule replaced by plain GRPO."""
    names = [n for n, run in REFERENCES.items() if n.startswith("late/") and run.config.step.rule.name == rule]

    def plain(batch, generator, **options):
        return methods.grpo(batch, generator)

    plain.__signature__ = inspect.signature(methods.RULES[rule])
    return first_that_differs(methods.RULES[rule], plain, names)


def test_every_rule_has_a_sign_and_a_constant_among_the_mutants():
    kinds = {what for mutant in MUTANTS for what in [mutant["what"]]}
    assert {f"{rule}: {part}" for rule in methods.RULES for part in ("sign", "constant")} <= kinds


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant["what"] for mutant in MUTANTS])
def test_every_mutant_is_one_of_todays_code(mutant):
    module = importlib.import_module(mutant["module"])
    assert isinstance(getattr(module, mutant["definition"]), FunctionType | type)
    assert mutant["old"] != mutant["new"]
    mutated(module, mutant["definition"], mutant["old"], mutant["new"])
    assert any(name.startswith(mutant["replays"]) for name in REFERENCES)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_replay_notices_every_mutant():
    rules = [rule for rule in methods.RULES if rule != "grpo"]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        found = dict(zip((f"{rule}: plain GRPO" for rule in rules), pool.map(try_plain_grpo, rules)))
        found |= zip((mutant["what"] for mutant in MUTANTS), pool.map(try_mutant, MUTANTS))
    for what, noticed in found.items():
        print(f"{what:45}{noticed or 'SURVIVES'}")
    survivors = {what for what, noticed in found.items() if noticed is None}
    store = Store(ROOT / "data" / "replay")
    tried = [name for name in REFERENCES if name.startswith(("late/", *(mutant["replays"] for mutant in MUTANTS)))]
    if all(on_this_machine(store.get(name, REFERENCES[name].config)) for name in tried):
        assert survivors == SURVIVORS.keys()
    else:
        assert survivors <= SURVIVORS.keys() | SMALL
