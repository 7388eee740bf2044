"""Every command says what it does, what each option means and what its default is."""

import argparse
import importlib
import re

import pytest

from companion.provenance import ROOT

SOURCES = [path.relative_to(ROOT / "src") for path in (ROOT / "src" / "companion").rglob("*.py")]
COMMANDS = [
    ".".join(path.with_suffix("").parts)
    for path in SOURCES
    if "argparse.ArgumentParser(" in (ROOT / "src" / path).read_text(encoding="utf-8")
]


class Parsed(Exception):
    pass


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_itself(monkeypatch, name):
    def parsed(parser, *_):
        raise Parsed(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    with pytest.raises(Parsed) as caught:
        importlib.import_module(name).main()
    (parser,) = caught.value.args
    assert parser.prog == f"python -m {name}"
    assert re.fullmatch(r"[A-Z].{30,}[.?]", parser.description)
    assert all(action.help for action in parser._actions), [a.dest for a in parser._actions if not a.help]
    options = [action for action in parser._actions if action.option_strings and action.dest != "help"]
    text = " ".join(parser.format_help().split())
    for action in options:
        if action.nargs != 0 and action.default not in (None, []):
            assert f"(default: {action.default})" in text, action.dest


def test_there_are_commands():
    assert {"companion.runner.reproduce", "companion.runner.claim", "companion.notebooks.readme"} <= set(COMMANDS)
