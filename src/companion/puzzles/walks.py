"""Walks: go from one cell of a board to another in a number of moves, to no cell twice and never to a blocked one.

A problem is a line of text such as `11-42*335:` (start, goal, blocked cell as row and column, moves), a response such
as `88668`, moves as on a number pad: 8 up a row, 2 down, 4 left and 6 right. Most problems have many answers.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

Cell = tuple[int, int]  # row from below, column
WIDTH = 5  # cells along each side of the board
MOVES: dict[str, Cell] = {"8": (1, 0), "2": (-1, 0), "4": (0, -1), "6": (0, 1)}
SIZES = (4, 5, 6, 7)  # moves


@dataclass(frozen=True, order=True)
class Walk:
    """Start and goal, a cell that is neither, and a number of moves in which some walk gets there."""

    start: Cell
    goal: Cell
    blocked: Cell
    size: int

    @property
    def prompt(self) -> str:
        """The text that the policy continues."""
        start, goal, blocked = (f"{row}{column}" for row, column in (self.start, self.goal, self.blocked))
        return f"{start}-{goal}*{blocked}{self.size}:"

    def is_solved_by(self, text: str) -> bool:
        """Whether the moves are as many as asked for, go to free cells of the board alone, and end at the goal."""
        if len(text) != self.size:
            return False
        cell, seen = self.start, {self.start, self.blocked}
        for move in text:
            if move not in MOVES or not _on_board(cell := _moved(cell, move)) or cell in seen:
                return False
            seen.add(cell)
        return cell == self.goal

    def random_response(self, rng: random.Random) -> str:
        """As many moves, each drawn: well-formed, rarely right."""
        return "".join(rng.choice("2468") for _ in range(self.size))


def prompt_length(size: int) -> int:
    """Characters in a prompt."""
    return 10


def response_length(size: int) -> int:
    """Characters in a response of `size` moves, the end included."""
    return size + 1


@cache
def solutions(size: int) -> dict[Walk, tuple[str, ...]]:
    """Every problem of `size` moves, and all its right answers (seconds at 7)."""
    found: dict[Walk, list[str]] = {}
    cells = list(product(range(WIDTH), repeat=2))
    for start, blocked in product(cells, repeat=2):
        if start != blocked:
            for goal, moves in _walks(start, (start, blocked), size):
                found.setdefault(Walk(start, goal, blocked, size), []).append(moves)
    return {problem: tuple(sorted(found[problem])) for problem in sorted(found)}


def _walks(cell: Cell, seen: tuple[Cell, ...], left: int) -> Iterator[tuple[Cell, str]]:
    """Where walks of `left` moves over cells that were not seen end, and their moves."""
    if not left:
        yield cell, ""
        return
    for move in MOVES:
        if _on_board(to := _moved(cell, move)) and to not in seen:
            yield from ((goal, move + rest) for goal, rest in _walks(to, (*seen, to), left - 1))


def _moved(cell: Cell, move: str) -> Cell:
    return cell[0] + MOVES[move][0], cell[1] + MOVES[move][1]


def _on_board(cell: Cell) -> bool:
    return min(cell) >= 0 and max(cell) < WIDTH
