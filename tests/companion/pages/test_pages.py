"""What README, docs and notebook 00 are generated from, and that they are as generated."""

import nbformat
import pytest

from companion.notebooks.claims import VERDICT_MIME, claims_page
from companion.pages import contents, findings, house, readme, rules
from companion.provenance import ROOT
from entropy_dynamics.methods import RULES

PAGES = readme.generated(ROOT)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_generated(name):
    assert (ROOT / name).read_text(encoding="utf-8") == readme.renewed(ROOT / name, PAGES[name])


def test_a_missing_marker_is_named(tmp_path):
    with pytest.raises(ValueError, match="<!-- results -->"):
        readme.with_parts("nothing here", {"results": str})
    text = "a <!-- x -->old<!-- end x --> b"
    assert readme.with_parts(text, {"x": lambda: "new"}) == "a <!-- x -->\nnew\n<!-- end x --> b"
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "n.ipynb")
    with pytest.raises(ValueError, match="no cell has <!-- x -->"):
        readme.renewed(tmp_path / "n.ipynb", {"x": str})


def test_a_notebook_keeps_its_outputs(tmp_path):
    cells = [nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text="1")])]
    cells.append(nbformat.v4.new_markdown_cell("<!-- x --><!-- end x -->"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    renewed = nbformat.reads(readme.renewed(tmp_path / "n.ipynb", {"x": lambda: "new"}), as_version=4)
    assert renewed.cells[0].outputs[0].text == "1" and renewed.cells[1].source == "<!-- x -->\nnew\n<!-- end x -->"


def test_numbers_are_read_out_of_a_line():
    line = "mean D = 0.0022 (0.4 standard errors), mean S = 0.265"
    assert findings.read_out(line, "mean D = {d} ({} standard errors), mean S = {s}") == {"d": "0.0022", "s": "0.265"}
    with pytest.raises(ValueError, match="mend findings"):
        findings.read_out(line, "mean S = {s}")


def notebook(tmp_path, name, line, claim):
    verdict = {"claim": claim, "holds": True, "line": line}
    cell = nbformat.v4.new_code_cell("...", outputs=[nbformat.v4.new_output("display_data", {VERDICT_MIME: verdict})])
    text = "# It holds\n\n| not | counted |\n" + "word " * 599
    (tmp_path / "notebooks").mkdir(exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text), cell])
    nbformat.write(notebook, tmp_path / "notebooks" / name)


def test_findings_follow_the_committed_verdicts(tmp_path, monkeypatch):
    rows = '[[finding]]\nclaim = "C"\npaper = "P"\nhere = "it is {x}"\nnotebook = "02_n"\nlines = { a = "x = {x}" }\n'
    rows += '[[finding]]\nclaim = "C2"\npaper = "P2"\nanswer = 1\nnotebook = "10_n"\n'
    (tmp_path / "findings.toml").write_text(rows, encoding="utf-8")
    monkeypatch.setattr(findings, "FINDINGS", tmp_path / "findings.toml")
    notebook(tmp_path, "02_n.ipynb", "x = 3 %", "a")
    (tmp_path / "data" / "runs").mkdir(parents=True)
    made = findings.table(tmp_path, "n/").splitlines()
    assert made[2] == "| C | P | it is 3 % | [02](n/02_n.ipynb) |"
    assert made[3] == f"| C2 | P2 | {findings.MISSING} | [10](n/10_n.ipynb) |"  # no records in an empty folder
    monkeypatch.setattr(findings.page, "short_answers", lambda records: ["a", "b", "c"])
    assert findings.table(tmp_path).splitlines()[3] == "| C2 | P2 | b | [10](10_n.ipynb) |"


def test_the_table_of_notebooks_has_titles_and_times(tmp_path):
    notebook(tmp_path, "02_a_b.ipynb", "x", "a")
    notebook(tmp_path, "03_c.ipynb", "x", "a")
    rows = contents.table(tmp_path / "notebooks").splitlines()[2:]
    # 599 words and the title's four, at 120 a minute, are a little more than five minutes
    assert rows == ["| **[02 a b](02_a_b.ipynb)** | It holds | 10 |", "| [03 c](03_c.ipynb) | It holds | 10 |"]
    line = "**[02 a b](n/02_a_b.ipynb)** (10) · [03 c](n/03_c.ipynb) (10)"
    assert contents.line(tmp_path / "notebooks", "n/") == line


def test_a_claim_has_its_heading_and_its_evidence(tmp_path):
    notebook(tmp_path, "00_start_here.ipynb", "within 1 %", "worked-example")
    parts = claims_page(tmp_path / "notebooks").split("### ")
    (own,) = [part for part in parts if part.startswith("worked-example\n")]
    assert "`within 1 %`" in own and "(../src/entropy_dynamics/theory.py)" in own
    (other,) = [part for part in parts if part.startswith("lens-sgd\n")]
    assert "*not decided yet*" in other
    (escaped,) = [part for part in parts if part.startswith("theorem-3.2-exact\n")]
    assert "dz\\_k" in escaped


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_every_rule_says_its_source_coefficients_and_constants(rule):
    about = rules.described(rule)
    assert about["Source"] == "ours" or "arXiv 2" in about["Source"] or "arXiv 1" in about["Source"]
    assert about["Coefficients"].startswith("w = ") and about["Constants"]


def test_a_rule_without_a_field_is_named():
    def bare():
        """Bare (ours): nothing else.

        Constants: none.
        """

    with pytest.raises(ValueError, match="docstring of bare lacks Coefficients"):
        rules.described(bare)


def test_a_room_without_a_place_is_named(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[[tool.importlinter.contracts]]\nlayers = ["companion.b | companion.a", "entropy_dynamics"]', encoding="utf-8"
    )
    for name in "ab":
        (tmp_path / "src" / "companion" / name).mkdir(parents=True)
        (tmp_path / "src" / "companion" / name / "__init__.py").write_text(f'"""Room\n{name}."""', encoding="utf-8")
    assert house.rooms(tmp_path) == "- [`b`](../src/companion/b): Room b.\n- [`a`](../src/companion/a): Room a."
    (tmp_path / "src" / "companion" / "c").mkdir()
    (tmp_path / "src" / "companion" / "c" / "__init__.py").touch()
    with pytest.raises(ValueError, match=r"do not name c"):
        house.rooms(tmp_path)
