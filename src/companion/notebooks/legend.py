"""A table as text, with what its columns mean beneath it."""

from collections.abc import Mapping

import pandas as pd


def print_table(table: pd.DataFrame, meanings: Mapping[str, str], *, digits: int = 3) -> None:
    """Print `table`, rounded, and one line for each of its columns.

    Args:
        table: with one level of columns, or two: then the upper ones are explained.
        meanings: column -> what it means, with its unit.

    Raises:
        ValueError: a column without a meaning, or a meaning without a column.
    """
    columns = list(dict.fromkeys(table.columns.get_level_values(0)))
    if set(columns) != set(meanings):
        raise ValueError(f"meanings are given for {list(meanings)}, expected the columns {columns}")
    width = max(map(len, columns))
    print(table.round(digits).to_string(), *(f"  {c:{width}}  {meanings[c]}" for c in columns), sep="\n")
