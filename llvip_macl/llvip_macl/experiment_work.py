"""The work of the comparison: training and judging a piece in a forked child, and reading what it left.

One parent process has imported the stack (a cold start costs many seconds); every piece runs in a child of it, so that
a piece cannot disturb the next and leaves nothing behind but its files:

    <work_dir>/<plan>/<piece>/        the run of tools/train.py
    <work_dir>/<plan>/<piece>/judged.npz   detections of the test pairs, paired embeddings, and what they were made with
"""

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import DataError, UserError
from shared.run import run_command
from shared.signals import Interrupted
from shared.storage import sha256_of, write_atomic

from .experiment_plan import Piece, Plan
from .experiment_scores import TAU

JUDGED = "judged.npz"
MAX_PAIRS = 4096  # persons whose embeddings are kept: all of them
INTERRUPTED = (130, 143)


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a piece said of the N test pairs: detections, embeddings (K,D) of K persons (or none), their images (K,)."""

    image_index: np.ndarray
    boxes_xywh_px: np.ndarray
    scores: np.ndarray
    visible: np.ndarray
    infrared: np.ndarray
    persons_image: np.ndarray
    space: str
    tau: float


def in_child(work: Callable[[], int | None]) -> int:
    """The exit code of `work` in a forked child. A signal that ends this process ends the child first (it saves)."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _leave_with(work)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except Interrupted as interrupted:
        os.kill(child, interrupted.exit_code - 128)
        os.waitpid(child, 0)
        raise


def _leave_with(work: Callable[[], int | None]) -> None:
    """The child's whole life."""
    code = 1
    try:
        code = run_command(work)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclass(frozen=True)
class Bench:
    """Does the work of a plan below a folder."""

    plan: Plan
    work_dir: Path

    def folder(self, piece: Piece) -> Path:
        return self.work_dir / self.plan.name / piece.tag

    def checkpoint(self, piece: Piece) -> Path:
        """The last epoch's weights of a finished piece."""
        from .demo_command import last_checkpoint

        return last_checkpoint(self.folder(piece))

    def sha256(self, path: Path) -> str:
        return sha256_of(path)

    def train(self, piece: Piece, start: Path | None) -> None:
        """Train a piece to its end (or find it finished), and judge it, in a child. UserError when that fails."""
        code = in_child(lambda: self._work(piece, start))
        if code in INTERRUPTED:
            raise Interrupted(code)
        if code:
            raise UserError(f"{piece.tag} ended with exit code {code}: what it said stands above and in "
                            f"{self.folder(piece)}/log.txt")  # fmt: skip

    def _work(self, piece: Piece, start: Path | None) -> int:
        from .runtime import train_command

        options = self.plan.options_of(piece, start)
        argv = [str(self.plan.config_of(piece.name)), "--work-dir", str(self.folder(piece)), "--resume"]
        argv += ["--cfg-options", *options]
        train_command.train(train_command.parser().parse_args(argv), ["tools/train.py", *argv])
        if piece.name in self.plan.arms:
            self._judge(piece, options)
        return 0

    def _judge(self, piece: Piece, options: list[str]) -> None:
        """Detections and embeddings of the test pairs, kept beside the weights they are of."""
        from .inference import PairInferencer

        weights, kept = self.checkpoint(piece), self.folder(piece) / JUDGED
        if kept.is_file() and str(_arrays(kept)["weights"]) == self.sha256(weights):
            return
        options = [one for one in options if not one.startswith("load_from=")]
        detector = PairInferencer(self.plan.config_of(piece.name), weights, options=options)
        dataset = self._test_set(detector.cfg)
        arrays = {**_detections(detector, dataset), **_embeddings(detector.model, dataset)}
        _write(kept, {**arrays, "weights": np.array(self.sha256(weights))})

    def judged(self, piece: Piece) -> Judgement:
        """What a finished piece left. DataError when that is missing or of other weights."""
        path = self.folder(piece) / JUDGED
        arrays = _arrays(path)
        if str(arrays.pop("weights")) != self.sha256(self.checkpoint(piece)):
            raise DataError(
                f"{path} is of other weights than those beside it: remove it and run the same command again."
            )
        return Judgement(**{**arrays, "space": str(arrays["space"]), "tau": float(arrays["tau"])})

    def truth(self) -> Any:
        """The annotated boxes of the test pairs, as the miss rate reads them."""
        from .evaluation.pair_metrics import packed_as_truth
        from .evaluation.samples import Judged, packed_truth
        from .inference import model_config

        arm = next(iter(self.plan.arms))
        cfg = model_config(str(self.plan.config_of(arm)), [*self.plan.options, *self.plan.arms[arm].options])
        dataset = self._test_set(cfg)
        nothing = np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0)
        records = [dataset.get_data_info(index) for index in range(len(dataset))]
        found = [Judged(one["img_id"], one["img_path"], _size(one), *nothing, packed_truth(one)) for one in records]
        return packed_as_truth(found, "of the embedded world")

    @staticmethod
    def _test_set(cfg: Any) -> Any:
        from .demo_command import test_set

        return test_set(cfg)


def _size(record: dict) -> tuple[int, int]:
    """Height and width; of labels that do not say, the image is asked."""
    if "height" in record:
        return record["height"], record["width"]
    from .pictures import read_image

    return read_image(record["img_path"]).shape[:2]


def _detections(detector: Any, dataset: Any) -> dict[str, np.ndarray]:
    index, boxes, scores = [np.zeros(0, np.int64)], [np.zeros((0, 4))], [np.zeros(0)]
    for place in range(len(dataset)):
        record = dataset.get_data_info(place)
        found = detector(record["img_path"], record["img_ir_path"])
        corners = found.boxes_xyxy_px.astype(np.float64)
        index.append(np.full(len(corners), place))
        boxes.append(np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1))
        scores.append(found.scores.astype(np.float64))
    return {
        "image_index": np.concatenate(index),
        "boxes_xywh_px": np.concatenate(boxes),
        "scores": np.concatenate(scores),
    }


def _embeddings(model: Any, dataset: Any) -> dict[str, np.ndarray]:
    """Of every annotated person, in both modalities; nothing for a detector of one."""
    from .evaluation.paired_rois import can_pair, gather_pairs

    if not can_pair(model):
        nothing = np.zeros((0, 1), np.float32)
        return {"visible": nothing, "infrared": nothing, "persons_image": np.zeros(0, np.int64), "space": np.array(""),
                "tau": np.array(TAU)}  # fmt: skip
    pairs = gather_pairs(model, dataset, max_pairs=MAX_PAIRS)
    head = model.roi_head.macl_head
    return {"visible": pairs.visible, "infrared": pairs.infrared, "persons_image": pairs.images,
            "space": np.array(pairs.space), "tau": np.array(TAU if head is None else float(head.tau))}  # fmt: skip


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    import io

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """DataError for a file that is missing or broken."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}): remove it and run the same command again.") from None
