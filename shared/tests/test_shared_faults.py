"""`shared` itself under its fault suite, with the smallest command that it can train."""

import json
from pathlib import Path

import linear_command
import pytest

from shared.testing.faults import ExportCommand, FaultSuite, Judging, TrainingCommand


def on(*more: str):
    return lambda work: ["--results", str(work / "results"), *more]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("prepared")


class TestLinear(FaultSuite):
    command = TrainingCommand(
        name="linear",
        main=linear_command.main,
        argv=on(),
        script=Path(linear_command.__file__),
        run_folder=lambda work: work / "results" / "t",
        stage="line",
        weights=linear_command.WEIGHTS,
        evaluation=(linear_command, "judge"),
        preparation={"data": (linear_command, "prepare"), "teacher": (linear_command, "lr_groups")},
        workers=lambda count: ["--workers", str(count)],
        another_seed=["--seed", "1", "--run", "other"],
        uneven=["--batch", "7", "--run", "other"],
        accumulate=2,
        judging=Judging(
            argv=lambda work, samples: on("--judge", str(samples))(work),
            scores=lambda work: json.loads((work / "results" / "scores.json").read_text()),
        ),
        export=ExportCommand(
            argv=on("--export"),
            point=(linear_command, "text_of"),
            folder=lambda work: work / "results" / "t" / "exported",
        ),
    )
