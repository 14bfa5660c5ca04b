"""A resume of `shared.loop`, in the smallest command, from files that come from outside."""

from pathlib import Path

import linear_command
import pytest

from shared.loop import Loop
from shared.testing.file_faults import FileFaults, Reader, cut_short


def argv(work: Path) -> list[str]:
    return ["--results", str(work / "results")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A run that was cut in its third step."""
    work = tmp_path_factory.mktemp("prepared")
    cut_short(linear_command.main, argv(work), work, (Loop, "_optimize"), 3)
    return work


class TestFiles(FileFaults):
    readers = (
        Reader(
            name="resume",
            main=linear_command.main,
            argv=argv,
            file=lambda work: work / "results/t/line/step-0000002.pt",
            taken=(Loop, "batches"),
            pointer="latest",
        ),
    )
