import importlib
import re

import nbformat
import numpy as np
import pytest

from companion.notebooks import claims
from companion.notebooks.claims import CLAIMS, VERDICT_MIME, Verdict, assert_claim, read_claims, verdicts
from companion.provenance import ROOT


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
    assert re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(), re.M)


@pytest.mark.parametrize("row", ["a,b,c,d,e,", "a,b,c,d,e,f\na,b,c,d,e,f", "a,b,c,d,e,f,g"])
def test_a_bad_row_is_named(tmp_path, row):
    (tmp_path / "claims.csv").write_text("id,statement,whose,notebook,function,test\n" + row)
    with pytest.raises(ValueError, match=rf"claims.csv, line {2 + row.count(chr(10))}: expected id, statement"):
        read_claims(tmp_path / "claims.csv")
