import pandas as pd
import pytest

from companion.notebooks.legend import print_table


def test_every_column_is_explained_under_its_table(capsys):
    print_table(pd.DataFrame({"x": [1 / 3], "size": [2.0]}, index=["a"]), {"size": "nats", "x": "a share"})
    assert capsys.readouterr().out.splitlines() == [
        "       x  size",
        "a  0.333   2.0",
        "  x     a share",
        "  size  nats",
    ]


def test_of_two_levels_the_upper_one_is_explained(capsys):
    columns = pd.MultiIndex.from_tuples([("signs", "a"), ("signs", "b")])
    print_table(pd.DataFrame([[0.5, 1.0]], columns=columns), {"signs": "share of right signs"})
    assert capsys.readouterr().out.endswith("  signs  share of right signs\n")


@pytest.mark.parametrize("meanings", [{}, {"x": "a share", "y": "nothing"}])
def test_meanings_and_columns_must_agree(meanings):
    with pytest.raises(ValueError, match="expected the columns"):
        print_table(pd.DataFrame({"x": [1]}), meanings)
