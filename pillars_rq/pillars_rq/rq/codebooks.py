"""The residual quantizer: n books of rows whose sums stand for pillar features, grown without touching what is there.

    x  ~  C_1[i_1] + C_2[i_2] + ... + C_n[i_n]

**Prefixes.** The first k rows of a book *are* its k-book, so one set of books serves every (n, k): fewer books by
stopping the sum early, fewer bits by searching fewer rows. This holds because rows are never moved once finished:

    grow(book, k, residuals, generator)   k - held new rows, drawn from residual vectors: a parameter, `fresh[book]`
    ... warm-up and gradient steps move `fresh[book]`, and nothing else ...
    finish()                              the new rows join the finished ones

**Freezing by construction.** Finished rows live in a buffer, not in a parameter: no optimizer, weight decay, moving
average or restart can reach them, whatever `train()` or `requires_grad_()` a parent calls. `book_hash` proves it.

**No straight-through estimator.** `decode` looks rows up and adds them. The encoder is frozen, so the straight-through
trick x + sg(q - x) would cut the only path by which the detection loss reaches the rows.
"""

# P pillars, D channels, K rows of a book, n books, k rows in use.

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shared.errors import CheckpointError, UserError

from .search import beam_codes, greedy_codes, nearest_rows
from .together import Scene

ABSENT = -1  # a code of a pillar that stops at an earlier book (depth per pillar)


class OperatingPointError(UserError):
    """An (n, k) that these books do not hold."""


class ResidualQuantizer(nn.Module):
    """n books of up to schedule[-1] rows; see the module's text.

    Buffers: books (n, K, D) float32, the finished rows and zeros; held (n,) int64, how many rows are finished. Of the
    encoder alone, decoding knows neither: metric (D, D) float32, in which the nearest row is looked for,
    |(x - c) metric|, by default the plain distance; taps (O, D, 3, 3) and shift (O,), by which the codes of a frame are
    chosen together (`rq.together`), by default none.
    Parameters: fresh, {str(book): (new, D)}, only between `grow` and `finish`.

    Raises:
        UserError: a schedule that does not grow, or sizes below 1.
    """

    def __init__(
        self,
        n_codebook: int,
        schedule: Sequence[int],
        dim: int = 64,
        metric: Tensor | None = None,
        taps: Tensor | None = None,
        shift: Tensor | None = None,
    ):
        super().__init__()
        schedule = tuple(schedule)
        if n_codebook < 1 or dim < 1 or not schedule or schedule[0] < 1 or list(schedule) != sorted(set(schedule)):
            raise UserError(
                f"a quantizer of {n_codebook} books, {dim} channels and sizes {list(schedule)} cannot be: it needs at "
                "least one book and one channel, and sizes that grow, such as [16, 32, 64, 128, 256]."
            )
        self.n_codebook, self.schedule, self.dim = n_codebook, schedule, dim
        self.register_buffer("books", torch.zeros(n_codebook, schedule[-1], dim))
        self.register_buffer("held", torch.zeros(n_codebook, dtype=torch.int64))
        self.register_buffer("metric", torch.eye(dim) if metric is None else metric.detach().float().clone())
        self.register_buffer("taps", torch.zeros(0, dim, 3, 3) if taps is None else taps.detach().float().clone())
        self.register_buffer("shift", torch.zeros(0) if shift is None else shift.detach().float().clone())
        self.fresh = nn.ParameterDict()
        self._read_held()
        self.register_load_state_dict_post_hook(ResidualQuantizer._read_held)

    def _read_held(self, _keys: object = None) -> None:
        self._held = self.held.tolist()  # `held` where no device has to be asked
        self._plain = torch.equal(self.metric, torch.eye(self.dim, device=self.metric.device))

    # --- what the books hold ---

    def size(self, book: int) -> int:
        """Rows of a book, finished and new."""
        return self._held[book] + len(self.fresh[str(book)] if str(book) in self.fresh else ())  # noqa: SIM401

    def rows(self, book: int, k: int | None = None) -> Tensor:
        """The first k rows of a book (all by default), (k, D), with gradient to the new ones."""
        rows = self.books[book, : self._held[book]]
        if str(book) in self.fresh:
            rows = torch.cat([rows, self.fresh[str(book)]])
        return rows[:k]

    def points(self) -> list[tuple[int, int]]:
        """Every (n, k) these books can serve: k of the schedule, held by each of the first n books."""
        sizes = [self.size(book) for book in range(self.n_codebook)]
        return [(n, k) for n in range(1, self.n_codebook + 1) for k in self.schedule if min(sizes[:n]) >= k]

    def check(self, n: int, k: int) -> None:
        """Raises OperatingPointError, saying what is held, unless (n, k) can be served."""
        if (n, k) not in self.points():
            raise OperatingPointError(
                f"{n} codebook(s) with {k} embeddings cannot be used: these books hold {self.describe()}. Choose a "
                "point they hold, or a checkpoint that was trained further."
            )

    def describe(self) -> str:
        """For instance `1-2 codebooks with 16, 32 or 3 codebooks with 16 embeddings`."""
        held: dict[int, list[int]] = {}
        for n, k in self.points():
            held.setdefault(n, []).append(k)
        groups: dict[tuple[int, ...], list[int]] = {}
        for n, ks in held.items():
            groups.setdefault(tuple(ks), []).append(n)
        texts = [f"{_span(ns)} codebook(s) with {', '.join(map(str, ks))}" for ks, ns in groups.items()]
        return " or ".join(texts) + " embeddings" if texts else "no finished book yet"

    # --- codes and sums ---

    def encode(self, features: Tensor, n: int, k: int, beam: int = 1, coords: Tensor | None = None) -> Tensor:
        """Codes of the first n books with k rows each: (P, D) float32 -> (P, n) int64. Never carries a gradient.

        coords: cells of the pillars, (P, 2) y, x or (P, 3) frame, y, x: books with taps then choose neighbours' codes
        together. None: each vector by itself.

        Raises OperatingPointError for an (n, k) not held, UserError for a beam where codes are chosen together,
        ValueError for a wrong width or beam < 1.
        """
        self.check(n, k)
        return self.search(features, [k] * n, beam, coords)

    @torch.no_grad()
    def search(self, features: Tensor, ks: Sequence[int], beam: int = 1, coords: Tensor | None = None) -> Tensor:
        """`encode` with a size for each book and no check against the schedule: (P, D) -> (P, len(ks)) int64."""
        self._check_width(features)
        if beam < 1:
            raise ValueError(f"a beam keeps at least 1 partial sum, got {beam}")
        if not ks:
            return torch.zeros((len(features), 0), dtype=torch.int64, device=features.device)
        if (scene := self.scene(features, coords)) is not None:
            if beam > 1:
                raise UserError(
                    f"a beam of {beam} searches pillar by pillar, and these books choose the codes of a frame together "
                    "(rq_model.metric joint): leave the beam at 1."
                )
            return self._search_scene(features, ks, scene)
        books = [self.rows(book, k).detach() for book, k in enumerate(ks)]
        features, books = self.seen(features), [self.seen(rows) for rows in books]
        return greedy_codes(features, books) if beam == 1 else beam_codes(features, books, beam)

    def _search_scene(self, features: Tensor, ks: Sequence[int], scene: Scene) -> Tensor:
        left, codes = features, []
        for book, k in enumerate(ks):
            chosen = self.nearest(left, book, k, scene)
            left = left - self.rows(book)[chosen]
            codes.append(chosen)
        return torch.stack(codes, 1)

    def scene(self, features: Tensor, coords: Tensor | None) -> Scene | None:
        """What codes are chosen together by: features (P, D) on cells (P, 2 or 3); None without cells or taps."""
        return Scene(features, coords, self.taps, self.shift) if coords is not None and len(self.taps) else None

    def seen(self, vectors: Tensor) -> Tensor:
        """Vectors (P, D) as the metric sees them: plain distances between what it returns are the metric's."""
        return vectors if self._plain else vectors @ self.metric

    @torch.no_grad()
    def nearest(self, vectors: Tensor, book: int, ks: Tensor | int | None = None, scene: Scene | None = None) -> Tensor:
        """Index of a book's best row, new ones included, for what is left of every vector: (P, D) -> (P,) int64.

        Args:
            ks: rows that may be used: all (None), one number, or one for every vector (P,).
            scene: of the same pillars: their rows are chosen together.
        """
        rows = self.rows(book)
        if isinstance(ks, Tensor):
            codes = torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device)
            for k in ks.unique().tolist():
                codes[ks == k] = self.nearest(vectors[ks == k], book, k)
            return codes if scene is None else scene.refine(vectors, rows, codes, ks)
        codes = nearest_rows(self.seen(vectors), self.seen(rows[:ks]))
        return codes if scene is None else scene.refine(vectors, rows[:ks], codes)

    def decode(self, codes: Tensor, n: int | None = None) -> Tensor:
        """The sum of the first n codes' rows (all by default), added in book order in float32: (P, n) -> (P, D).

        One order and single additions: the same codes give the same bits on every machine. ABSENT codes add nothing.
        The gradient reaches the new rows.

        Raises ValueError when there are fewer than n codes, or a code names a row that is not there.
        """
        n = codes.shape[1] if n is None else n
        if not 0 <= n <= min(codes.shape[1], self.n_codebook):
            raise ValueError(f"cannot add {n} books of {codes.shape[1]} codes; there are {self.n_codebook} books")
        total = torch.zeros((len(codes), self.dim), device=self.books.device)
        for book in range(n):
            total = total + self._looked_up(book, codes[:, book])
        return total

    def _looked_up(self, book: int, codes: Tensor) -> Tensor:
        rows = self.rows(book)
        if codes.device.type == "cpu" and len(
            codes
        ):  # a GPU would have to be waited for; it stops on a bad index itself
            low, high = int(codes.min()), int(codes.max())
            if low < ABSENT or high >= len(rows):
                raise ValueError(f"codes of book {book + 1} lie in {low}..{high}, its rows in 0..{len(rows) - 1}")
        return nn.functional.embedding(codes.clamp(min=0), rows) * (codes != ABSENT)[:, None]

    @torch.no_grad()
    def residual(self, features: Tensor, book: int, ks: Tensor | int, scene: Scene | None = None) -> Tensor:
        """What the books before `book` leave of the features: (P, D) -> (P, D).

        Args:
            ks: rows used of *each* earlier book: one number, or one for every vector, (P,) int64. Drawing them from the
                schedule makes one book fit behind every size (random-k residuals).
            scene: of the same pillars: their codes are chosen together.
        """
        self._check_width(features)
        left = features
        for earlier in range(book):
            left = left - self.rows(earlier)[self.nearest(left, earlier, ks, scene)]
        return left

    def draw_sizes(self, count: int, generator: torch.Generator) -> Tensor:
        """A size of the schedule for each of `count` vectors, uniformly: (count,) int64 on the CPU."""
        return torch.tensor(self.schedule)[torch.randint(len(self.schedule), (count,), generator=generator)]

    def _check_width(self, features: Tensor) -> None:
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features have shape {tuple(features.shape)}; the books need (pillars, {self.dim})")

    # --- growing ---

    def grow(self, book: int, k: int, residuals: Tensor, generator: torch.Generator) -> nn.Parameter:
        """Give a book k rows; the new ones are drawn from `residuals` (P, D), and may be trained until `finish`.

        Raises UserError when there is no vector to draw from, ValueError when the book grows already or has k rows.
        """
        if str(book) in self.fresh or not self.size(book) < k <= self.schedule[-1]:
            raise ValueError(f"book {book + 1} has {self.size(book)} rows and cannot grow to {k} now")
        rows = drawn(residuals, k - self.size(book), generator)
        self.fresh[str(book)] = nn.Parameter(rows.to(self.books))
        return self.fresh[str(book)]

    @torch.no_grad()
    def finish(self) -> None:
        """The new rows join the finished ones, and are frozen from here on."""
        for name, rows in list(self.fresh.items()):
            book, start = int(name), self._held[int(name)]
            self.books[book, start : start + len(rows)] = rows
            self.held[book] += len(rows)
            del self.fresh[name]
        self._read_held()

    def finished_state(self) -> dict[str, Tensor]:
        """`state_dict()` as it would be after `finish`, copied; the books go on growing."""
        books, held = self.books.clone(), self.held.clone()
        for name, rows in self.fresh.items():
            book, start = int(name), self._held[int(name)]
            books[book, start : start + len(rows)] = rows.detach()
            held[book] += len(rows)
        encoder = {"metric": self.metric.clone(), "taps": self.taps.clone(), "shift": self.shift.clone()}
        return {"books": books, "held": held, **encoder}

    def book_hash(self, book: int, k: int) -> str:
        """Hex SHA-256 of the first k rows of a book as little-endian float32; ValueError when it has fewer."""
        if not 0 <= k <= self.size(book):
            raise ValueError(f"book {book + 1} has {self.size(book)} rows, not {k}")
        values = self.rows(book, k).detach().cpu().contiguous().numpy().astype("<f4")
        return hashlib.sha256(values.tobytes()).hexdigest()


def drawn(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the vectors (P, D), different ones as far as they reach: (count, D). UserError when there is none."""
    if not len(vectors):
        raise UserError(
            f"{count} new codebook rows are to be drawn from data, and there is no occupied pillar; check that the "
            "point clouds lie inside the grid's range."
        )
    order = torch.randperm(len(vectors), generator=generator)
    return vectors.detach()[order.repeat(-(-count // len(vectors)))[:count].to(vectors.device)].clone()


def quantizer_state(quantizer: ResidualQuantizer) -> dict:
    """Tensors and plain Python from which `quantizer_from` builds the same books: for checkpoints."""
    state = quantizer.finished_state()
    return {"schedule": list(quantizer.schedule), **{name: value.cpu() for name, value in state.items()}}


def quantizer_from(state: dict, source: str = "the checkpoint") -> ResidualQuantizer:
    """The books of `quantizer_state`; CheckpointError, naming `source`, when the state is not one."""
    try:
        schedule, books, held = state["schedule"], state["books"], state["held"]
        n, size, dim = books.shape
        # Files from before there were these: the plain distance, each pillar by itself.
        quantizer = ResidualQuantizer(n, schedule, dim, *(state.get(name) for name in ("metric", "taps", "shift")))
        encoder = {name: getattr(quantizer, name) for name in ("metric", "taps", "shift")}
        if size != schedule[-1] or held.shape != (n,) or not bool(((held >= 0) & (held <= size)).all()):
            raise ValueError(
                f"books of shape {tuple(books.shape)} do not fit sizes {schedule} and held {held.tolist()}"
            )
        if encoder["taps"].shape != (len(encoder["shift"]), dim, 3, 3) or encoder["metric"].shape != (dim, dim):
            raise ValueError(f"a metric or taps of other than {dim} channels")
        if not all(bool(torch.isfinite(one).all()) for one in (books, *encoder.values())):
            raise ValueError("a row, the metric or a tap is not finite")
        quantizer.load_state_dict({"books": books, "held": held, **encoder})
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"{source} holds no usable codebooks ({error}); give a checkpoint that train_eval_rq.py wrote."
        ) from error
    return quantizer.eval()


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
