"""Codes of a frame chosen together, so that neighbours' errors cancel where the tail first adds them up.

The tail begins with a 3x3 convolution of stride 2, so each of its outputs sees up to nine pillars. Pillar by pillar,
neighbours that look alike get the same row and the same error, and the errors add up. Chosen together they need not:

    minimise over the codes   sum over outputs and channels   w (conv(q) - conv(x))^2
    w = 1 where conv(x) + shift > 0, else SLACK: the ReLU hides the error

Each pillar in turn takes the row that is best given all others (iterated conditional modes; Besag, 1986). Pillars that
share no output may move at once: those whose y and x agree modulo 6 also have the same taps, so that one step is a few
matrix products. Only the encoder does this; a stream is decoded like any other.
"""

# P pillars, D channels, K rows of a book, O channels of the convolution, T taps that reach a pillar: 1, 2 or 4

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

PERIOD = 6  # cells: 3, beyond which no two pillars share an output, times 2 for equal taps
SWEEPS = 4  # times that every pillar moves
SLACK = 0.1  # weight of an error at an output that the ReLU cuts off
TAPS = ((1,), (0, 2))  # of an even and of an odd row or column, along one axis


@dataclass(frozen=True, eq=False)
class Turn:
    """Pillars (p,) that move at once, the outputs (p, T) that their taps lead to (none of them twice), and those taps
    as one matrix (D, T O)."""

    pillars: Tensor
    outputs: Tensor
    taps: Tensor


class Scene:
    """One frame, or a batch of them, as the tail's first convolution sees it.

    Args:
        features: (P, D) float32, what is to be sent.
        coords: (P, 2) y, x or (P, 3) frame, y, x; no cell twice.
        taps: (O, D, 3, 3) the convolution with the scale of its batch norm. shift: (O,) of the batch norm.
    """

    def __init__(self, features: Tensor, coords: Tensor, taps: Tensor, shift: Tensor):
        coords = coords.to(features.device)
        frames = coords[:, 0] if coords.shape[1] == 3 else coords.new_zeros(len(coords))
        y, x = coords[:, -2:].unbind(1)
        self._channels, self._width = len(taps), int(x.max()) // 2 + 2 if len(x) else 1
        self._height = int(y.max()) // 2 + 2 if len(y) else 1
        self._outputs = self._width * self._height * (int(frames.max()) + 1 if len(frames) else 1)
        self.turns = list(self._turns(frames, y, x, taps))
        self.weights = torch.where(self.through(features) + shift > 0, 1.0, SLACK)

    def _turns(self, frames: Tensor, y: Tensor, x: Tensor, taps: Tensor) -> Iterator[Turn]:
        kinds = y % PERIOD * PERIOD + x % PERIOD
        matrices: dict[tuple[int, int], Tensor] = {}  # by the parity of row and column
        for kind in kinds.unique().tolist():
            row, column = kind // PERIOD % 2, kind % PERIOD % 2
            chosen = [(ky, kx) for ky in TAPS[row] for kx in TAPS[column]]
            if (row, column) not in matrices:
                matrices[row, column] = torch.cat([taps[:, :, ky, kx].T for ky, kx in chosen], 1)
            pillars = torch.nonzero(kinds == kind)[:, 0]
            first = frames[pillars] * self._height
            outputs = [(first + (y[pillars] + 1 - ky) // 2) * self._width + (x[pillars] + 1 - kx) // 2
                       for ky, kx in chosen]  # fmt: skip
            yield Turn(pillars, torch.stack(outputs, 1), matrices[row, column])

    def through(self, vectors: Tensor) -> Tensor:
        """The convolution of vectors (P, D) on their cells, without bias: (outputs, O)."""
        total = vectors.new_zeros(self._outputs, self._channels)
        for turn in self.turns:
            total[turn.outputs] += self._by_tap(vectors[turn.pillars] @ turn.taps)
        return total

    def error(self, left: Tensor) -> Tensor:
        """What the codes minimise, for vectors (P, D) that were not represented: a scalar, with gradient to them."""
        return (self.weights * self.through(left).square()).sum()

    @torch.no_grad()
    def refine(self, left: Tensor, rows: Tensor, codes: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Better codes of one book: left (P, D), what earlier books leave; rows (K, D); codes (P,) to begin with.

        sizes: (P,), of each pillar the rows it may use; None: all. Never worse than `codes` by `error`.
        """
        codes, rows = codes.clone(), rows.detach()
        error = self.through(rows[codes] - left)
        moves = [self._move(turn, rows, sizes) for turn in self.turns]
        for turn, behind, weights, alone in moves * SWEEPS:
            others = error[turn.outputs].flatten(1) - behind[codes[turn.pillars]]  # what is wrong without the pillar
            new = codes[turn.pillars] = torch.addmm(alone, weights * others, behind.T, alpha=2).argmin(1)
            error[turn.outputs] = self._by_tap(others + behind[new])
        return codes

    def _move(self, turn: Turn, rows: Tensor, sizes: Tensor | None) -> tuple[Turn, Tensor, Tensor, Tensor]:
        """What does not change from sweep to sweep: the turn, its rows behind the convolution (K, T O), the weights of
        its outputs (p, T O), and what every row would cost were there no other error (p, K)."""
        behind, weights = rows @ turn.taps, self.weights[turn.outputs].flatten(1)
        alone = weights @ behind.square().T
        if sizes is not None:
            allowed = torch.arange(len(rows), device=rows.device) < sizes[turn.pillars, None]
            alone.masked_fill_(~allowed, torch.inf)
        return turn, behind, weights, alone

    def _by_tap(self, values: Tensor) -> Tensor:
        """(p, T O) -> (p, T, O)."""
        return values.unflatten(1, (-1, self._channels))
