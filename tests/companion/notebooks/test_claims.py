import importlib
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from companion.notebooks import claims
from companion.notebooks.claims import CLAIMS, VERDICT_MIME, Verdict, assert_claim, claims_table, read_claims, verdicts

ROOT = Path(__file__).parents[3]


@pytest.fixture
def shown(monkeypatch):
    bundles = []
    monkeypatch.setattr(claims, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def test_a_verdict_is_recorded_whether_it_holds_or_not(shown):
    assert_claim("worked-example", np.bool_(True), "all is well")
    with pytest.raises(AssertionError, match="FAILS  worked-example: off by 3"):
        assert_claim("worked-example", False, "off by 3")
    assert [bundle[VERDICT_MIME]["holds"] for bundle in shown] == [True, False]
    assert shown[0]["text/plain"] == "HOLDS  worked-example: all is well"


def test_an_unknown_claim_is_refused(shown):
    with pytest.raises(KeyError, match="unknown claim 'worked-exampel'"):
        assert_claim("worked-exampel", True, "")
    assert not shown


def test_verdicts_are_read_back_with_cell_and_seconds():
    verdict = {"claim": "worked-example", "holds": True, "line": "fine"}
    cell = nbformat.v4.new_code_cell("...", outputs=[nbformat.v4.new_output("display_data", {VERDICT_MIME: verdict})])
    cell.metadata["papermill"] = {"duration": 1.5}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T"), cell])
    assert list(verdicts(notebook)) == [Verdict("worked-example", True, "fine", 1, 1.5)]


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_every_claim_points_at_things_that_exist(claim):
    notebook = nbformat.read(ROOT / "notebooks" / f"{claim.notebook}.ipynb", 4)
    decided = "\n".join(cell.source for cell in notebook.cells if "assert_claim(" in cell.source)
    assert f'"{claim.id}"' in decided
    module, _, name = claim.function.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))
    file, test = claim.test.split("::")
    assert re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.M)


def test_the_readme_shows_the_map_as_generated():
    assert claims_table() in (ROOT / "README.md").read_text(encoding="utf-8")


HEADER = "id,statement,whose,notebook,function,test\n"
ROW = "a,It holds,ours,00_demo,m.f,test_m.py::test_f\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "row 1: columns are "),
        (HEADER.replace("whose", "source") + ROW, "row 1: columns are .*source"),
        (HEADER.replace("test\n", "test,more\n") + ROW, "row 1: columns are .*more"),
        (HEADER + ROW + ROW, "row 3: a second claim 'a'"),
        (HEADER + ROW.replace("ours", " "), "row 2 .*'00_demo'.* none empty"),
        (HEADER + ROW.replace(",ours", ""), "row 2 .*expected 6 fields"),
        (HEADER + ROW + "\n", "row 3 .*expected 6 fields"),
    ],
)
def test_a_malformed_list_of_claims_is_refused_and_the_row_named(tmp_path, text, message):
    path = tmp_path / "claims.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"claims.csv, {message}"):
        read_claims(path)
