"""What train_eval_rq.py writes into progressive_rq_logs/checkpoints/, and finding the file that holds an (n, k).

Every file stands alone: books, code tables and grid (the codec that an edge and a server load), the score it was
chosen by, and the hash of the base detector. They are `shared.checkpoint` files with a manifest that lists the
operating points, so that a refused (n, k) can name the newest file that holds it without opening any.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared import checkpoint
from shared.errors import CheckpointError

from .bitstream.codec import Codec, codec_from, codec_state
from .bitstream.tables import Tables
from .grid import Grid
from .rq.codebooks import OperatingPointError, ResidualQuantizer, quantizer_from, quantizer_state
from .session import Pool

FORMAT = "pillars_rq rq 1"
TABLE_VECTORS = 20_000  # pillars whose codes are counted for the tables


@dataclass(frozen=True)
class Origin:
    """Where a file comes from. epoch: from 1; n, k: the point it was judged at; score: higher is better, None unknown;
    metric: what the score is. base_sha256: of the base detector's file. step: of the run, to order files by."""

    stage: str
    epoch: int
    n: int
    k: int
    score: float | None
    metric: str
    base_sha256: str
    step: int


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in use."""

    path: Path
    codec: Codec
    origin: Mapping[str, Any]
    sha256: str


def finished_codec(quantizer: ResidualQuantizer, pool: Pool, grid: Grid) -> Codec:
    """The codec of books as they are now, growing ones included, with tables counted on the pool."""
    books = quantizer_from(quantizer_state(quantizer))
    # Some of every frame; where neighbours choose together, all of some frames.
    few = slice(TABLE_VECTORS) if len(books.taps) else slice(None, None, max(1, len(pool) // TABLE_VECTORS))
    sample, coords = pool.features[few].to(books.books.device), pool.coords[few]
    return Codec(books, Tables.counted(books.points(), lambda n, k: books.encode(sample, n, k, coords=coords)), grid)


def save_rq(path: Path, codec: Codec, origin: Origin, *, mark: str, scores: Mapping | None = None) -> Path:
    """Write a checkpoint; `scores`: plain Python to keep with it."""
    state = {
        "format": FORMAT,
        "codec": codec_state(codec),
        "model": codec.quantizer.finished_state(),
        "origin": asdict(origin),
        "mark": mark,
        "scores": dict(scores) if scores else None,
    }
    points = [list(point) for point in codec.quantizer.points()]
    extra = {"points": points, "n": origin.n, "k": origin.k, "score": origin.score, "base_sha256": origin.base_sha256}
    return checkpoint.save(path, state, step=origin.step, pointers=(), extra=extra)


def load_rq(path: Path) -> Loaded:
    """A checkpoint's codec. CheckpointError: missing, damaged, or not one of these files."""
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist: give a checkpoint that train_eval_rq.py wrote, such as "
            "progressive_rq_logs/checkpoints/final.pth (--rq_ckpt)"
        )
    state = checkpoint.load_weights(path)
    if state.get("format") != FORMAT or "codec" not in state:
        raise CheckpointError(
            f"{path} is no RQ checkpoint (it holds {', '.join(map(str, list(state)[:4]))}, ...): give one that "
            "train_eval_rq.py wrote, such as progressive_rq_logs/checkpoints/final.pth"
        )
    return Loaded(path, codec_from(state["codec"], str(path)), state["origin"], checkpoint.sha256_of(path))


def check_belongs(loaded: Loaded, grid: Grid, channels: int, base_sha256: str) -> list[str]:
    """CheckpointError when the books are of another grid or width than the detector; a warning for other weights."""
    theirs = loaded.codec.grid
    if theirs != grid:
        raise CheckpointError(
            f"{loaded.path} was trained on a grid of {theirs.height} x {theirs.width} cells, {theirs.range_m} m, and "
            f"the detector has {grid.height} x {grid.width}, {grid.range_m} m: give the checkpoint of this detector, "
            "or its detector in model.pretrained_weight"
        )
    if loaded.codec.quantizer.dim != channels:
        raise CheckpointError(
            f"{loaded.path} has books of {loaded.codec.quantizer.dim} channels, the detector {channels}: they were not "
            "trained together"
        )
    if loaded.origin["base_sha256"] != base_sha256:
        return [f"{loaded.path} was trained with another base detector (other weights in model.pretrained_weight)"]
    return []


def check_point(loaded: Loaded, n: int, k: int) -> None:
    """OperatingPointError when the file does not hold (n, k), naming the newest one beside it that does."""
    try:
        loaded.codec.quantizer.check(n, k)
    except OperatingPointError as error:
        other = newest_with(loaded.path.parent, n, k)
        where = f"{other} holds it" if other else f"No checkpoint in {loaded.path.parent} does"
        raise OperatingPointError(f"{loaded.path}: {error} {where}.") from None


def newest_with(folder: Path, n: int, k: int) -> Path | None:
    """The file of a folder that was written last, in training's order, of those whose manifest lists (n, k)."""
    found: list[tuple[int, str, Path]] = []
    for path in folder.glob("*.pth"):
        try:
            record = checkpoint.manifest(path)
        except CheckpointError:  # a foreign or damaged file is no answer
            continue
        if [n, k] in ((record.get("extra") or {}).get("points") or []):
            found.append((record["step"], record.get("time_utc", ""), path))
    return max(found)[2] if found else None


def frozen_rows(quantizer: ResidualQuantizer) -> list[tuple[int, str]]:
    """Number and hash of the finished rows of every book."""
    return [(size, quantizer.book_hash(book, size)) for book, size in enumerate(quantizer.held.tolist())]


def check_frozen(quantizer: ResidualQuantizer, rows: Sequence[tuple[int, str]]) -> None:
    """RuntimeError (a defect, not a mistake of the user's) when rows that were finished have moved."""
    for book, (size, expected) in enumerate(rows):
        if quantizer.book_hash(book, size) != expected:
            raise RuntimeError(f"finished rows of codebook {book} moved while others were trained")
