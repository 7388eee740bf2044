import nbformat
import pytest

from companion.runner.claim import main, up_to_the_verdict

ASSERTS = 'from companion.notebooks.claims import assert_claim\nassert_claim("worked-example", {}, "off by 3")'


def notebooks(tmp_path, *sources):
    cells = [nbformat.v4.new_code_cell("output_dir: str = 'x'", metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "00_start_here.ipynb")
    return notebook


def test_what_comes_after_the_verdict_is_left_out(tmp_path):
    notebook = notebooks(tmp_path, "1", 'x = "worked-example"', ASSERTS.format(True), "2")
    assert up_to_the_verdict(notebook, "worked-example").cells[-1].source == ASSERTS.format(True)
    with pytest.raises(ValueError, match="no cell of the notebook decides lens-sgd"):
        up_to_the_verdict(notebook, "lens-sgd")


@pytest.mark.parametrize(("wrong", "near"), [("lens-sdg", "lens-sgd"), ("theorem-9", "theorem-3.3-real")])
def test_an_unknown_id_names_near_ones(capsys, wrong, near):
    with pytest.raises(SystemExit, match="2"):
        main([wrong])
    assert near in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sources", "status", "said"),
    [
        (
            ["from pathlib import Path\nassert Path('here').exists()", ASSERTS.format(True), "1 / 0"],
            0,
            "HOLDS  off by 3",
        ),
        ([ASSERTS.format(False)], 1, "FAILS  off by 3"),
        (["1 / 0", ASSERTS.format(True)], 1, "no verdict was reached: ZeroDivisionError"),
    ],
)
def test_a_claim_is_decided_alone(tmp_path, capsys, sources, status, said):
    notebooks(tmp_path, *sources)
    (tmp_path / "here").touch()  # the kernel starts in the folder of the notebooks
    assert main(["worked-example", "--notebooks", str(tmp_path), "--build", str(tmp_path / "build")]) == status
    out = capsys.readouterr().out
    assert said in out and "(Theorems 3.2, 3.3)" in out
    assert (tmp_path / "build" / "worked-example" / "00_start_here.ipynb").is_file()
