"""Writing a world in BatVision V2's layout: into a temporary folder beside the goal, renamed when complete.

Building_00/{train,val,test}.csv     the official columns; two of the three hold no row
Building_00/rooms.csv                index, room: ours, since BatVision tells no rooms; V2 readers do not look at it
Building_00/audio/audio_0.wav        stereo, 16-bit PCM, 44.1 kHz, 20,000 samples
Building_00/camera/camera_0.jpeg     Building_00/depth/depth_0.npy   uint16 millimetres, 0 = no measurement
world.json                           spec, generator version
"""

import csv
import io
from collections.abc import Callable
from functools import cache, partial
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from batvision_kd.audio import write_wav
from batvision_kd.data.layout import ROOM_COLUMNS, ROOMS, V2_COLUMNS
from shared.embedded_world import Description, in_processes, written_once

from .building import Building, make_building, make_room, place_rig
from .camera import photograph
from .sound import RATE, record
from .spec import GENERATOR_VERSION, SPLITS, Shot, WorldSpec

KINDS = {"audio": "wav", "camera": "jpeg", "depth": "npy"}
JPEG_QUALITY = 92
SAMPLE_BYTES = 250_000  # of a sample at 180 x 320, for the message of a full disk


def world_folder(parent: Path | str, spec: WorldSpec) -> Path:
    """Where the world of this spec lies below `parent`."""
    height, width = spec.size_hw
    return Path(parent) / f"world{GENERATOR_VERSION}-{spec.seed}-{spec.train}-{spec.val}-{spec.test}-{height}x{width}"


def ensure_world(
    parent: Path | str,
    *,
    train: int = 64,
    val: int = 16,
    test: int = 16,
    seed: int = 0,
    size_hw: tuple[int, int] = (180, 320),
    workers: int | None = None,
) -> Path:
    """The root of this world below `parent`, written on the first call; worlds of several sizes lie side by side."""
    folder = world_folder(parent, WorldSpec(train, val, test, seed, size_hw))
    return write_world(folder, train=train, val=val, test=test, seed=seed, size_hw=size_hw, workers=workers)


def write_world(
    root: Path | str,
    *,
    train: int = 64,
    val: int = 16,
    test: int = 16,
    seed: int = 0,
    size_hw: tuple[int, int] = (180, 320),
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write a world to `root`, or keep the one that is there when it is of the same spec. Returns `root`.

    Args:
        train, val, test: samples; each split has buildings of its own.
        workers: processes besides this one; None one a core, 0 works here. The files do not depend on it.
        progress: called with (samples done, samples in all).

    Several processes may ask for the same root at once: one writes, the others wait and use it.

    Raises:
        ConfigError: a number out of bounds.
        DataError: the folder holds something else, or the world of another spec or generator.
        StorageError: the file system refused.
    """
    spec = WorldSpec(train, val, test, seed, size_hw)
    world = Description(
        "embedded synthetic echo world of batvision_kd: no real data", GENERATOR_VERSION, spec.as_json()
    )
    return written_once(root, world, partial(_build, spec, workers, progress),
                        bytes_needed=(train + val + test) * SAMPLE_BYTES)  # fmt: skip


def _build(spec: WorldSpec, workers: int | None, progress: Callable[[int, int], None], building: Path) -> None:
    shots = list(spec.shots())
    _write_tables(building, shots)
    written = in_processes(partial(_write_shot, building, spec), shots, workers)
    for done, _ in enumerate(written, 1):
        progress(done, len(shots))


def _write_tables(building: Path, shots: list[Shot]) -> None:
    for location, group in groupby(shots, key=lambda shot: shot.location):
        members = list(group)
        for kind in KINDS:
            (building / location / kind).mkdir(parents=True)
        for split in SPLITS:
            rows = [_row(shot) for shot in members if shot.split == split]
            (building / location / f"{split}.csv").write_text(_table(V2_COLUMNS, rows))
        rooms = [(shot.index, f"room_{shot.room:02d}") for shot in members]
        (building / location / ROOMS).write_text(_table(ROOM_COLUMNS, rooms))


def _row(shot: Shot) -> list:
    """V2's columns; times count seconds, one sample a second."""
    place = {kind: [f"{shot.location}/{kind}/", f"{kind}_{shot.index}.{end}"] for kind, end in KINDS.items()}
    time = f"{shot.index}.0"
    return [shot.index, time, time, time, *place["audio"], time, *place["camera"], time, *place["depth"]]


def _table(columns: tuple[str, ...], rows: list) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    return text.getvalue()


@cache
def _building(seed: int, number: int) -> Building:
    return make_building(seed, number)


def make_shot(spec: WorldSpec, shot: Shot) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples (2, 20000) in -1..1, picture (H, W, 3) uint8, depth (H, W) uint16 mm; random numbers follow from the seed
    and the shot's building, room and view alone."""
    room = make_room(_building(spec.seed, shot.building), spec.seed, shot.building, shot.room)
    rng = np.random.default_rng((spec.seed, 3, shot.building, shot.room, shot.view))
    rig = place_rig(room, rng)
    return record(room, rig, rng), *photograph(room, rig, spec.size_hw, rng)


def _write_shot(building: Path, spec: WorldSpec, shot: Shot) -> None:
    samples, picture, depth_mm = make_shot(spec, shot)
    folder, stem = building / shot.location, f"{shot.index}"
    write_wav(folder / "audio" / f"audio_{stem}.wav", samples, RATE)
    Image.fromarray(picture).save(folder / "camera" / f"camera_{stem}.jpeg", quality=JPEG_QUALITY)
    np.save(folder / "depth" / f"depth_{stem}.npy", depth_mm)
