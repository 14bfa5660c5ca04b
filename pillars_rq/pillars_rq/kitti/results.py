"""Result files in KITTI's format: 16 columns a detection, one file a frame, also for frames without detections."""

from collections.abc import Mapping
from pathlib import Path

from shared.errors import DataError
from shared.storage import storage_error

from .labels import Annotations, lines, read_labels


def write_result_files(folder: Path, detections: Mapping[str, Annotations]) -> int:
    """Write `folder`/{frame_id}.txt for every frame, sizes as h w l; the number of files.

    Raises:
        StorageError: the file system refused.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for frame_id, found in detections.items():
            text = "".join(line + "\n" for line in lines(found, scores=True))
            (folder / f"{frame_id}.txt").write_text(text, encoding="utf-8")
    except OSError as error:
        raise storage_error(folder, error) from error
    return len(detections)


def read_result_files(folder: Path, frame_ids: list[str]) -> list[Annotations]:
    """The detections of these frames. DataError when a file is missing (an empty one means no detections) or wrong."""
    missing = [frame_id for frame_id in frame_ids if not (folder / f"{frame_id}.txt").is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(frame_ids)} result files, the first is {missing[0]}.txt: write one "
            "for every frame, empty when nothing was detected."
        )
    return [read_labels(folder / f"{frame_id}.txt", scores=True) for frame_id in frame_ids]
