"""Which of these stands for which of those, one to one: the assignment problem (the Hungarian method).

Rows enter one after the other, each by the cheapest path of exchanges, in n^2 m steps (Jonker and Volgenant 1987).
"""

from __future__ import annotations

import numpy as np


def assignment(cost: np.ndarray) -> np.ndarray:
    """For each of n rows a column of its own, m >= n of them, such that the summed cost is smallest."""
    rows, columns = cost.shape
    of_row, of_column = np.zeros(rows + 1), np.zeros(columns + 1)  # dual variables; place 0 is a root
    taken = np.zeros(columns + 1, dtype=np.int64)
    for row in range(1, rows + 1):
        taken[0], column = row, 0
        least, before = np.full(columns + 1, np.inf), np.zeros(columns + 1, dtype=np.int64)
        seen = np.zeros(columns + 1, dtype=bool)
        while taken[column]:
            seen[column] = True
            here = taken[column]
            slack = np.where(seen[1:], np.inf, cost[here - 1] - of_row[here] - of_column[1:])
            nearer = slack < least[1:]
            least[1:][nearer], before[1:][nearer] = slack[nearer], column
            free = np.where(seen[1:], np.inf, least[1:])
            step = free.min()
            of_row[taken[seen]] += step
            of_column[seen] -= step
            least[~seen] -= step
            column = int(free.argmin()) + 1
        while column:
            taken[column], column = taken[before[column]], before[column]
    found = np.zeros(rows, dtype=np.int64)
    found[taken[1:][taken[1:] > 0] - 1] = np.nonzero(taken[1:])[0]
    return found
