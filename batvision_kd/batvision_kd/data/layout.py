"""Where BatVision's files lie: the tables of V1 and V2 as records.

    V2: <root>/<Location>/{train,val,test}.csv, audio/audio_<i>.wav, camera/camera_<i>.jpeg, depth/depth_<i>.npy
    V1: <root>/{train,val,test}.csv, two mono .npy files a record, no camera unless the table has a `camera path` column

    records = read_records(root, "train")                       # both versions
    records = read_records(root, "all", locations=("Attic",))   # for a location hold-out

V2's paths are relative to the data-set root and repeat the location. Stray files do no harm: only folders that hold a
table are locations, and they are read in sorted order. A location without a table for the split, or without its audio
folder, is left out with a warning.

`rooms.csv` (columns index, room) beside V2's tables is this project's: the embedded world writes it, BatVision has
none. Without it a record's room is its location.
"""

import csv
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shared.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")
V2_COLUMNS = (
    "index", "time", "left audio time", "right audio time", "audio path", "audio file name", "camera time",
    "camera path", "camera file name", "depth time", "depth path", "depth file name",
)  # fmt: skip
V2_NEEDED = tuple(f"{kind} {part}" for kind in ("audio", "camera", "depth") for part in ("path", "file name"))
V1_NEEDED = ("depth path", "audio path left", "audio path right")
ROOMS, ROOM_COLUMNS = "rooms.csv", ("index", "room")


@dataclass(frozen=True)
class Record:
    """One echo with its depth map. audio: a stereo WAV (V2), or left and right .npy (V1). camera: None without one."""

    id: str
    split: str
    location: str
    room: str
    audio: tuple[Path, ...]
    camera: Path | None
    depth: Path

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.audio, *((self.camera,) if self.camera else ()), self.depth)


def find_version(root: Path | str) -> str:
    """ "v1" or "v2". Raises DataError for a root that is neither."""
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is no folder: give the folder that BatVision was extracted to.")
    if any((root / f"{split}.csv").is_file() for split in SPLITS):
        return "v1"
    if locations_of(root):
        return "v2"
    raise DataError(
        f"{root} holds neither train.csv (BatVision V1) nor folders with a train.csv (V2): give the folder above the "
        "locations."
    )


def locations_of(root: Path | str) -> list[str]:
    """V2's locations: the folders that hold any of the three tables, sorted."""
    folders = sorted(path for path in Path(root).iterdir() if path.is_dir())
    return [path.name for path in folders if any((path / f"{split}.csv").is_file() for split in SPLITS)]


def read_records(
    root: Path | str, split: str, *, locations: Sequence[str] | None = None, blacklist: Collection[str] = ()
) -> list[Record]:
    """The records of a split ("train", "val", "test", or "all"), sorted by location, then as the tables have them.

    locations: only these (V1's location is the first folder of the depth path). blacklist: not these.
    Raises ConfigError for a split or location that does not exist, DataError for a broken table or no record at all.
    """
    if split not in (*SPLITS, "all"):
        raise ConfigError(f"split {split!r}: choose one of {', '.join(SPLITS)}, all")
    root = Path(root)
    version = find_version(root)
    reader = _read_v2 if version == "v2" else _read_v1
    records = [record for part in (SPLITS if split == "all" else (split,)) for record in reader(root, part)]
    names = set(locations_of(root)) if version == "v2" else {record.location for record in records}
    for name in (*(locations or ()), *blacklist):
        if name not in names:
            raise ConfigError(f"{root} has no location {name!r}; it has {', '.join(sorted(names))}")
    chosen = [r for r in records if r.location not in blacklist and (locations is None or r.location in locations)]
    if not chosen:
        raise DataError(f"{root}: no record in split {split!r} with these locations; run inspect_data.py on it.")
    return sorted(chosen, key=lambda record: record.location)


def read_table(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV table by column name; further columns are kept.

    Raises DataError: missing, not UTF-8, a column missing, or a row with another number of fields.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): copy it again.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8 or copy it again.") from None
    try:
        table = csv.DictReader(text.splitlines(), skipinitialspace=True, strict=True)
        columns, rows = table.fieldnames or [], list(table)
    except csv.Error as error:
        raise DataError(f"{path} is no CSV table ({error}): copy it again.") from None
    if missing := [name for name in needed if name not in columns]:
        raise DataError(f"{path} has no column {', '.join(map(repr, missing))} (it has {columns}): copy it again.")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DataError(f"{path} line {number} has not the {len(columns)} fields of the first line: mend it.")
    return rows


def _read_v2(root: Path, split: str) -> Iterator[Record]:
    for location in locations_of(root):
        table = root / location / f"{split}.csv"
        if not table.is_file():
            warnings.warn(f"{table} is missing: {location} has no part in {split}", stacklevel=4)
            continue
        rows = read_table(table, V2_NEEDED)
        if rows and not (root / location / "audio").is_dir():
            warnings.warn(f"{root / location / 'audio'} is missing: {location} is left out", stacklevel=4)
            continue
        yield from v2_records(root, location, split, rows)


def v2_records(root: Path, location: str, split: str, rows: Sequence[dict[str, str]]) -> Iterator[Record]:
    """Records of a table's rows. Raises DataError for a path that leaves the root."""
    rooms = read_rooms(root / location)
    for number, row in enumerate(rows, 2):
        where = f"{root / location / split}.csv line {number}"
        audio, camera, depth = (
            inside(root, row[f"{kind} path"] + "/" + row[f"{kind} file name"], where)
            for kind in ("audio", "camera", "depth")
        )
        room = rooms.get(row.get("index", ""))
        yield Record(
            id=f"{location}/{audio.stem.removeprefix('audio_')}",
            split=split,
            location=location,
            room=f"{location}/{room}" if room else location,
            audio=(audio,),
            camera=camera,
            depth=depth,
        )


def read_rooms(folder: Path) -> dict[str, str]:
    """index -> room of a location of the embedded world; empty where there is no rooms.csv."""
    path = folder / ROOMS
    return {row["index"]: row["room"] for row in read_table(path, ROOM_COLUMNS)} if path.is_file() else {}


def _read_v1(root: Path, split: str) -> Iterator[Record]:
    table = root / f"{split}.csv"
    if not table.is_file():
        warnings.warn(f"{table} is missing: there is no {split}", stacklevel=4)
        return
    yield from v1_records(root, split, read_table(table, V1_NEEDED))


def v1_records(root: Path, split: str, rows: Sequence[dict[str, str]]) -> Iterator[Record]:
    """Records of V1's rows; the day of recording (first folder) is location and room."""
    for number, row in enumerate(rows, 2):
        where = f"{root / split}.csv line {number}"
        depth, left, right = (inside(root, row[name], where) for name in V1_NEEDED)
        camera = row.get("camera path", "").strip()
        if camera and (name := row.get("camera file name", "").strip()):
            camera = f"{camera}/{name}"
        location = depth.relative_to(root).parts[0]
        yield Record(
            id=str(depth.relative_to(root).with_suffix("")),
            split=split,
            location=location,
            room=location,
            audio=(left, right),
            camera=inside(root, camera, where) if camera else None,
            depth=depth,
        )


def inside(root: Path, name: str, where: str) -> Path:
    """The file below the root that a table names. Raises DataError when it would lie outside."""
    pure = PurePosixPath(name.strip())
    if not name.strip() or pure.is_absolute() or ".." in pure.parts or "\0" in name:
        raise DataError(f"{where}: the path {name!r} does not stay below {root}: write it relative to the root.")
    return root / pure
