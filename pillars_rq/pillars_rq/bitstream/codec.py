"""What both ends of a stream must share: the books, the code tables and the grid, with a fingerprint of them."""

# n books, k rows.

import hashlib
from typing import Any

from shared.errors import CheckpointError, UserError

from ..grid import Grid
from ..rq.codebooks import ResidualQuantizer, quantizer_from, quantizer_state
from .occupancy import MAX_CELLS
from .tables import Tables

ID_BYTES = 8
MAX_SIDE = 0xFFFF  # cells; H and W are 16-bit fields of the header
MAX_BOOKS = 0xFF
FORMAT = 1  # of `codec_state`


class Codec:
    """Books, tables and grid of a stream; take it as read-only.

    Raises:
        UserError: a table is missing, the grid is beyond what a header can say, or the books are still growing.
    """

    def __init__(self, quantizer: ResidualQuantizer, tables: Tables, grid: Grid):
        if len(quantizer.fresh):
            raise UserError("the books still grow; call finish() before they code anything, or use a saved checkpoint.")
        if grid.cells > MAX_CELLS or max(grid.height, grid.width) > MAX_SIDE or quantizer.n_codebook > MAX_BOOKS:
            raise UserError(
                f"a stream holds at most {MAX_CELLS:,} cells and {MAX_BOOKS} books, not {grid.height} x {grid.width} "
                f"cells and {quantizer.n_codebook} books; use larger voxels or fewer books."
            )
        missing = [(n, k) for n, k in quantizer.points() if (n - 1, k) not in tables]
        if missing:
            raise UserError(f"no code table for book {missing[0][0]} at size {missing[0][1]}; count the tables again.")
        self.quantizer, self.tables, self.grid = quantizer, tables, grid
        self._identities: dict[tuple[int, int], bytes] = {}

    def identity(self, n: int, k: int) -> bytes:
        """8 bytes of a SHA-256 over the first k rows and the table of each of the first n books.

        That is all that decides what a stream decodes to. The metric and the taps are the encoder's alone: two edges
        that differ in them may send to one server. A checkpoint's own hash covers them.

        Raises OperatingPointError when the books do not hold (n, k).
        """
        if (n, k) not in self._identities:
            self.quantizer.check(n, k)
            digest = hashlib.sha256(f"n={n} k={k} D={self.quantizer.dim}".encode())
            for book in range(n):
                digest.update(bytes.fromhex(self.quantizer.book_hash(book, k)))
                digest.update(self.tables.frequencies(book, k).astype("<u4").tobytes())
            self._identities[n, k] = digest.digest()[:ID_BYTES]
        return self._identities[n, k]


def codec_state(codec: Codec) -> dict[str, Any]:
    """Tensors and plain Python for a checkpoint: what an edge and a server need besides the network."""
    return {
        "format": FORMAT,
        "quantizer": quantizer_state(codec.quantizer),
        "tables": codec.tables.state(),
        "grid": codec.grid.as_dict(),
    }


def codec_from(state: dict[str, Any], source: str = "the checkpoint") -> Codec:
    """The codec of `codec_state`; CheckpointError, naming `source`, when the state is not one."""
    try:
        format_, parts = state["format"], (state["quantizer"], state["tables"], dict(state["grid"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source} holds no codec ({error!r}); give final.pth of a finished run.") from error
    if format_ != FORMAT:
        raise CheckpointError(f"{source} holds a codec of format {format_!r}, this code reads {FORMAT}; update it.")
    try:
        grid = Grid(**parts[2])
        return Codec(quantizer_from(parts[0], source), Tables.from_state(parts[1], source), grid)
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source} holds a codec that contradicts itself: {error}") from error
