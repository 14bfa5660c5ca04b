"""The expensive half of a comparison: training a piece, judging it, and proving that Phase 1 is R-MAE.

bench = Bench(plan, output_dir)
made = bench.train(piece, weights)            # an ordinary run of tools/; a cut one continues, a finished one stays
judged = bench.judge(piece); bench.pretrained(piece); bench.equality()
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from shared import checkpoint
from shared.errors import DataError
from shared.json_files import read_json
from shared.run import World
from shared.storage import tensors_sha256

from . import commands
from .engine.checkpoints import FOLDER, checkpoint_file, read_model_state
from .engine.evaluate import RESULT, SCORES
from .engine.sources import Sources, open_sources
from .evaluation import Evaluation, JudgedFrame
from .experiment_intervals import Judged, judge
from .experiment_plan import Piece, Plan, Pretraining, arguments, epochs
from .results import read_results

EQUALITY_EPOCHS = 2  # of the two short trainings whose weights must agree bit for bit
NO_TERMS = {f"MODEL.BACKBONE_3D.ENABLE_{term}": False for term in ("MLFR", "VOXEL_CONTRASTIVE", "FRAME_CONTRASTIVE")}
EQUAL = {  # the first has no teacher at all; the second has one that moves, but weighs nothing
    "plain_rmae": {**NO_TERMS, "MODEL.BACKBONE_3D.ENABLE_TEACHER_STUDENT": False},
    "phase1_weight_0": {**NO_TERMS, "MODEL.BACKBONE_3D.ENABLE_TEACHER_STUDENT": True},
}
ALL_EQUAL = {"LOSS_CONFIG.TEACHER_STUDENT_WEIGHT": 0.0}
STUDENT = ("pretrainer.backbone_3d.", "pretrainer.occupancy.")


@dataclass(frozen=True)
class Bench:
    """Trains and judges the pieces of one plan below one output folder."""

    plan: Plan
    output_dir: Path

    def train(self, piece: Piece, weights: Path | None = None) -> Path:
        """The last checkpoint of a piece. UserError from the training: settings or data changed since it was begun."""
        return self._trained(self.plan, piece, weights)

    def sha256(self, path: Path) -> str:
        """Of a checkpoint, verified. CheckpointError: missing or damaged."""
        checkpoint.load(path)
        return checkpoint.manifest(path)["sha256"]

    def judge(self, piece: Piece) -> Judged:
        """Scores of a fine-tuned piece on the validation frames."""
        classes, found = read_results(self._evaluated(piece, RESULT))
        frames = [self._frame(index, found) for index in range(len(self.sources.val))]
        matched = Evaluation(frames, classes, iou=self.plan.iou, metrics=(self.plan.metric,))
        return judge(matched, self.plan.metric, self.plan.draws)

    def pretrained(self, piece: Piece) -> dict[str, float]:
        """What a pretraining reaches on held-out frames: raw terms, the entropy of a constant, kept shares."""
        remedy = "remove its run's folder and run the same command again"
        return read_json(self._evaluated(piece, SCORES), remedy)["means"]

    def equality(self) -> dict[str, Any]:
        """Train plain R-MAE and Phase 1 at weight 0 for a few steps, and hash the student's weights and buffers."""
        seed, plan = self.plan.seeds[0], self._equality_plan()
        hashes, steps = {}, 0
        for name in EQUAL:
            path = self._trained(plan, Piece(name, None, seed), None)
            state, _ = read_model_state(path)
            hashes[name] = tensors_sha256({key: value for key, value in state.items() if key.startswith(STUDENT)})
            steps = checkpoint.manifest(path)["step"]
        return {"equal": len(set(hashes.values())) == 1, "steps": steps, "sha256": hashes}

    @property
    def mark(self) -> str:
        return self.sources.mark

    @property
    def fingerprint(self) -> str:
        """Of the frames that are judged and trained on."""
        return self.sources.fingerprint

    @cached_property
    def sources(self) -> Sources:
        """The data of the first arm on the largest budget."""
        arm = next(iter(self.plan.arms))
        budget = max(self.plan.budgets_of(arm), key=lambda name: self.plan.budgets[name].percent)
        return open_sources(self._request(self.plan, Piece(arm, budget, self.plan.seeds[0])).experiment, World())

    def _trained(self, plan: Plan, piece: Piece, weights: Path | None) -> Path:
        argv = arguments(plan, piece, self.output_dir, weights)
        commands.execute(piece.program, argv)
        path = self._folder(plan, piece) / FOLDER / checkpoint_file(epochs(plan, piece))
        if not path.is_file():
            raise DataError(f"{piece.tag}: the training ended without {path}")
        return path

    def _request(self, plan: Plan, piece: Piece):
        return commands.parse_config(piece.program, arguments(plan, piece, self.output_dir))

    def _folder(self, plan: Plan, piece: Piece) -> Path:
        request = self._request(plan, piece)
        return request.output / request.args.extra_tag

    def _evaluated(self, piece: Piece, name: str) -> Path:
        split = self._request(self.plan, piece).experiment.DATA_CONFIG.DATA_SPLIT.test
        epoch = f"epoch_{epochs(self.plan, piece)}"
        return self._folder(self.plan, piece) / "eval/eval_with_train" / epoch / split / name

    def _frame(self, index: int, found: Mapping[str, Mapping[str, Any]]) -> JudgedFrame:
        frame_id = self.sources.val.frame_ids[index]
        if frame_id not in found:
            raise DataError(f"frame {frame_id} was not judged: {RESULT} belongs to other data")
        boxes, labels = self.sources.val.truth(index)
        return JudgedFrame(frame_id, boxes.astype(float), labels, **found[frame_id])

    def _equality_plan(self) -> Plan:
        """Two short pretrainings that differ in the teacher's switch alone, on the smallest label budget's frames."""
        split = min(self.plan.budgets.values(), key=lambda one: one.percent).split.format(draw=0)
        both = {name: Pretraining(title=name, settings={**settings, **ALL_EQUAL})
                for name, settings in EQUAL.items()}  # fmt: skip
        return self.plan.model_copy(update={"name": f"{self.plan.name}-equal", "pretrainings": both,
                                            "pretrain_epochs": EQUALITY_EPOCHS, "pretrain_split": split})  # fmt: skip
