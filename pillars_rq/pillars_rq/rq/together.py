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
    """Pillars (p,) that move at once; for each of their taps its number (y, x) and the outputs (p,) it leads to."""

    pillars: Tensor
    taps: tuple[tuple[int, int, Tensor], ...]


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
        self.taps, self._width = taps, int(x.max()) // 2 + 2 if len(x) else 1
        self._height = int(y.max()) // 2 + 2 if len(y) else 1
        self._outputs = self._width * self._height * (int(frames.max()) + 1 if len(frames) else 1)
        self.turns = list(self._turns(frames, y, x))
        self.weights = torch.where(self.through(features) + shift > 0, 1.0, SLACK)

    def _turns(self, frames: Tensor, y: Tensor, x: Tensor) -> Iterator[Turn]:
        kinds = y % PERIOD * PERIOD + x % PERIOD
        for kind in kinds.unique().tolist():
            pillars = torch.nonzero(kinds == kind)[:, 0]
            first = frames[pillars] * self._height
            taps = [(ky, kx, (first + (y[pillars] + 1 - ky) // 2) * self._width + (x[pillars] + 1 - kx) // 2)
                    for ky in TAPS[kind // PERIOD % 2] for kx in TAPS[kind % PERIOD % 2]]  # fmt: skip
            yield Turn(pillars, tuple(taps))

    def through(self, vectors: Tensor) -> Tensor:
        """The convolution of vectors (P, D) on their cells, without bias: (outputs, O)."""
        total = vectors.new_zeros(self._outputs, len(self.taps))
        for turn in self.turns:
            for ky, kx, outputs in turn.taps:
                total[outputs] += vectors[turn.pillars] @ self.taps[:, :, ky, kx].T
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
        behind = torch.einsum("oiyx,ki->yxko", self.taps, rows)  # (3, 3, K, O)
        alone = self._alone(behind)
        if sizes is not None:
            alone.masked_fill_(torch.arange(len(rows), device=codes.device) >= sizes[:, None], torch.inf)
        error = self.through(rows[codes] - left)
        for turn in self.turns * SWEEPS:
            old, cost = codes[turn.pillars], alone[turn.pillars]
            for ky, kx, outputs in turn.taps:
                others = error[outputs] - behind[ky, kx][old]
                cost += 2 * (self.weights[outputs] * others) @ behind[ky, kx].T
            new = codes[turn.pillars] = cost.argmin(1)
            for ky, kx, outputs in turn.taps:
                error[outputs] += behind[ky, kx][new] - behind[ky, kx][old]
        return codes

    def _alone(self, behind: Tensor) -> Tensor:
        """What every row would cost every pillar were there no other error: (P, K)."""
        cost = behind.new_zeros(sum(len(turn.pillars) for turn in self.turns), behind.shape[2])
        for turn in self.turns:
            for ky, kx, outputs in turn.taps:
                cost[turn.pillars] += self.weights[outputs] @ behind[ky, kx].square().T
        return cost
