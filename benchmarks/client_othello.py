"""What ARENA 1.5.3 clones and downloads, made anew: games of Othello, a board that plays them, a probe at random.

`fill` writes it where the course looks for it. Squares are 0 to 63 from A0 to H7; tokens are 1 to 60, the squares that
are empty at the start in this order, and 0 is a pass. The board is 1 where black stands, who begins, and -1 for white.
"""

import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

LETTERS = "ABCDEFGH"
FILLED = {27: -1, 28: 1, 35: 1, 36: -1}
SQUARES = [square for square in range(64) if square not in FILLED]
DIRECTIONS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]


class OthelloBoardState:
    """A game of Othello: `state` is the board [8, 8], `next_hand_color` who moves."""

    def __init__(self) -> None:
        self.state = np.zeros((8, 8))
        self.next_hand_color = 1
        for square, color in FILLED.items():
            self.state[divmod(square, 8)] = color

    def _turned(self, square: int) -> list[tuple[int, int]]:
        """The stones that a move would turn; none if it is not allowed."""
        row, column = divmod(square, 8)
        turned: list[tuple[int, int]] = []
        for down, right in DIRECTIONS:
            line: list[tuple[int, int]] = []
            r, c = row + down, column + right
            while 0 <= r < 8 and 0 <= c < 8 and self.state[r, c] == -self.next_hand_color:
                line.append((r, c))
                r, c = r + down, c + right
            if 0 <= r < 8 and 0 <= c < 8 and self.state[r, c] == self.next_hand_color:
                turned += line
        return turned if self.state[row, column] == 0 else []

    def get_valid_moves(self) -> list[int]:
        return [square for square in range(64) if self._turned(square)]

    def umpire(self, square: int) -> None:
        """Play a move; who cannot play it passes."""
        if not (turned := self._turned(square)):
            self.next_hand_color *= -1
            turned = self._turned(square)
        if not turned:
            raise ValueError(f"{int_to_label(square)} is no move here")
        for place in [divmod(square, 8), *turned]:
            self.state[place] = self.next_hand_color
        self.next_hand_color *= -1

    def update(self, squares: Iterable[int]) -> None:
        for square in squares:
            self.umpire(square)


def to_string(move: Any) -> Any:
    """The square of a token, or of a label ("C0"); a list for several."""
    if isinstance(move, str):
        return 8 * LETTERS.index(move[0].upper()) + int(move[1])
    return SQUARES[int(move) - 1] if np.ndim(move) == 0 else [to_string(one) for one in move]


def to_int(move: Any) -> Any:
    """The token of a square, or of a label; a list for several."""
    if isinstance(move, str) or np.ndim(move) == 0:
        return SQUARES.index(to_string(move) if isinstance(move, str) else int(move)) + 1
    return [to_int(one) for one in move]


def string_to_label(square: Any) -> Any:
    """The label of a square; a list for several."""
    if np.ndim(square) == 0:
        return f"{LETTERS[int(square) // 8]}{int(square) % 8}"
    return [string_to_label(one) for one in square]


def int_to_label(token: Any) -> Any:
    """The label of a token; a list for several."""
    return string_to_label(to_string(token))


def plot_board(*boards: Any, **options: Any) -> None:
    """Nothing is shown; the same for the two below."""


plot_single_board = plot_board_log_probs = plot_board


def games(count: int) -> list[list[int]]:
    """The squares of games at random in which all 60 are played."""
    draw, played = random.Random(0), list[list[int]]()
    while len(played) < count:
        board, moves = OthelloBoardState(), list[int]()
        while allowed := board.get_valid_moves():
            moves.append(draw.choice(allowed))
            board.umpire(moves[-1])
        if len(moves) == 60:
            played.append(moves)
    return played


def fill(section: Path, count: int = 100) -> None:
    """Write the folder that the course clones, unless it is there."""
    folder = section / "othello_world" / "mechanistic_interpretability"
    if folder.exists():
        return
    folder.mkdir(parents=True)
    squares = games(count)
    np.save(folder / "board_seqs_string_small.npy", np.array(squares))
    np.save(folder / "board_seqs_int_small.npy", np.array([to_int(game) for game in squares]))
    probe = torch.randn(3, 512, 8, 8, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    torch.save(probe, folder / "main_linear_probe.pth")
    shutil.copy(__file__, folder / "mech_interp_othello_utils.py")
