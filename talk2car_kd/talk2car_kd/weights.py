"""The two weight files a run leaves, what they record, and how the newest is found.

    distilled_weights.pth   Stage 1: the student's encoder
    talk2car_best.pth       Stage 2: encoder + head, moving average, best on val; talk2car_last.pth likewise, last epoch

A file records the architecture, the teacher (name, sha256, dimensions), pixel statistics and when it was made, so it
can be rebuilt without the configuration and refused where it does not fit.
"""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from shared import checkpoint
from shared.errors import CheckpointError

from .config import Head, Student
from .grounding import Talk2CarModel, build_head
from .images import IMAGENET_MEAN, IMAGENET_STD
from .student import empty_like_student
from .teacher import Teacher

log = logging.getLogger(__name__)

DISTILLED, BEST, LAST = "distilled_weights.pth", "talk2car_best.pth", "talk2car_last.pth"


def teacher_record(teacher: Teacher) -> dict[str, Any]:
    return {
        "name": teacher.name,
        "sha256": teacher.sha256,
        "embed_dim": teacher.embed_dim,
        "text_width": teacher.text_width,
    }


def save_weights(
    path: Path, model: nn.Module, student: Student, teacher: Teacher, *, step: int, config: Mapping, **more
):
    """Write weights with what is needed to rebuild and to judge them; `more` adds plain-Python entries."""
    state = {
        "model": model.state_dict(),
        "student": student.model_dump(mode="json"),
        "teacher": teacher_record(teacher),
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "created": datetime.now(UTC).isoformat(),
        **more,
    }
    checkpoint.save(path, state, step=step, config=config, pointers=(), extra={"created": state["created"]})


def newest(results: Path, name: str, config_hash: str | None = None) -> Path:
    """The file `name` of all runs below `results` that was made last, by the time its own manifest records.

    config_hash: only runs of this configuration count. A file whose manifest is damaged is named in a warning and
    passed over while there is another. Raises CheckpointError when there is none.
    """
    found, damaged = [], []
    for path in sorted(results.glob(f"*/{name}")):
        try:
            found.append((checkpoint.manifest(path)["extra"]["created"], path))
        except CheckpointError as error:
            damaged.append(error)
    if damaged and not found:
        raise damaged[0]
    for error in damaged:
        log.warning("passed over: %s", error)
    fitting = [item for item in found if config_hash in (None, config_hash_of(item[1].parent))]
    if fitting:
        return max(fitting)[1]
    where = f"in any run below {results}" + (f" with this configuration ({config_hash})" if found else "")
    other = f" or name the newest of another configuration, {max(found)[1]}," if found else " or name a file"
    stage = "1" if name == DISTILLED else "2"
    raise CheckpointError(f"no {name} {where}: run `python main.py --stage {stage}` first,{other} with --checkpoint")


def config_hash_of(run: Path) -> str | None:
    """The configuration that a run's run.json records."""
    try:
        return json.loads((run / "run.json").read_bytes()).get("config_hash")
    except (OSError, ValueError):
        return None


def load_distilled(path: Path, student: Student, teacher: Teacher) -> nn.Module:
    """Stage 1's encoder for Stage 2. Raises CheckpointError when it was made with another backbone, map or teacher."""
    state = checkpoint.load(path)
    if not {"model", "student", "teacher"} <= state.keys():
        raise CheckpointError(f"{path} holds no encoder of Stage 1: give a {DISTILLED}")
    for key in ("backbone", "multiscale", "map_dim", "map_stride"):
        refuse_other(path, f"student.{key}", state["student"][key], getattr(student, key))
    for key, ours in teacher_record(teacher).items():
        if key != "name":
            refuse_other(path, f"teacher.{key}", state["teacher"][key], ours)
    encoder = empty_like_student(student, teacher.embed_dim)
    checkpoint.load_into(encoder, state["model"], source=path)
    return encoder


def refuse_other(path: Path, what: str, recorded, wanted) -> None:
    if recorded != wanted:
        raise CheckpointError(
            f"{path} was made with {what} = {recorded!r}, this run has {wanted!r}: use the configuration it was made "
            "with, or run Stage 1 again"
        )


def load_grounding(path: Path) -> tuple[Talk2CarModel, dict[str, Any]]:
    """Rebuild a grounding model from its own record: (model in eval mode, the whole record)."""
    state = checkpoint.load(path)
    if not {"model", "head"} <= state.keys():
        raise CheckpointError(f"{path} holds no grounding head: give a {BEST} or {LAST} of Stage 2")
    student, head = Student(**state["student"]), Head(**state["head"])
    encoder = empty_like_student(student, state["teacher"]["embed_dim"])
    vocabulary = state["model"].get("head.words.vocabulary")
    model = Talk2CarModel(encoder, build_head(head, encoder.map_dim, state["teacher"]["text_width"], vocabulary))
    checkpoint.load_into(model, state["model"], source=path)
    return model.eval(), state
