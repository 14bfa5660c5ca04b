"""Turn OpenPCDet's pickled infos into JSON, once, without letting the pickle run anything.

    python -m voxel_mae.data.pickles data/custom/custom_infos_train.pkl [more.pkl ...]

writes custom_infos_train.json beside it. A pickle is a program; this reader lets it make numpy arrays and numbers, and
plain containers, and refuses anything else by name. Both kinds are understood: a list of frames (custom_infos_*) and a
dictionary of objects by class (custom_dbinfos_*).
"""

import argparse
import io
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from shared.errors import DataError
from shared.json_files import damage_named
from shared.run import run_command
from shared.storage import write_atomic

from .clouds import SUFFIXES
from .infos import FrameInfo, again, write_infos
from .labels import Labels

XYZ = ("x", "y", "z")
MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")


class _NumbersOnly(pickle.Unpickler):
    """Knows numpy's arrays, dtypes and scalars, and harmless builtins: nothing with an effect."""

    allowed: ClassVar[frozenset[tuple[str, str]]] = frozenset(
        {(module, name) for module in MODULES for name in ("_reconstruct", "scalar", "_frombuffer")}
        | {("numpy", name) for name in ("ndarray", "dtype", "bool_", "float32", "float64", "int32", "int64", "str_")}
        | {("builtins", name) for name in ("set", "frozenset", "complex", "bytearray", "slice", "range")}
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_pickle(path: Path) -> Any:
    """The value of a pickle of numbers, strings, containers and numpy arrays.

    Raises:
        DataError: missing, cut short, or it asks for anything else (named).
    """
    try:
        return _NumbersOnly(io.BytesIO(path.read_bytes())).load()
    except FileNotFoundError:
        raise DataError(f"{path} is missing: correct the path.") from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError,
            ImportError, OverflowError, MemoryError, UnicodeDecodeError) as error:  # fmt: skip
        raise DataError(
            f"{path} is refused ({error}): infos hold numpy arrays and plain containers only. It is damaged, or not "
            "OpenPCDet's; make it anew from the clouds and labels with `python -m voxel_mae.data.prepare`."
        ) from error


def convert(path: Path) -> Path:
    """Write the JSON beside a pickle of OpenPCDet's; its path.

    Raises:
        DataError: refused or of another structure.
        StorageError: the file system refuses.
    """
    found, target = read_pickle(path), path.with_suffix(".json")
    if isinstance(found, list):
        infos = damage_named(path, lambda: [_frame(path.parent, info) for info in found], again(path.parent))
        features = XYZ if not found else _names(int(found[0]["point_cloud"]["num_features"]))
        return write_infos(target, path.stem.rpartition("_")[2], features, infos)
    if isinstance(found, dict):
        read = lambda: {str(name): [_entry(e) for e in group] for name, group in found.items()}  # noqa: E731
        entries = damage_named(path, read, again(path.parent))
        return write_atomic(target, json.dumps(entries) + "\n")
    raise DataError(f"{path} holds {type(found).__name__}, not a list of frames or a dictionary of objects by class.")


def _names(count: int) -> tuple[str, ...]:
    return (*XYZ, "intensity", *(f"feature{i}" for i in range(4, count)))[:count]


def _frame(root: Path, info: Mapping[str, Any]) -> FrameInfo:
    frame_id = str(info["point_cloud"]["lidar_idx"])
    places = [f"points/{frame_id}{suffix}" for suffix in SUFFIXES]
    path = next((place for place in places if (root / place).is_file()), places[0])
    annos = info.get("annos")
    if annos is None:
        return FrameInfo(frame_id, path, None)
    inside = annos.get("num_points_in_gt")
    labels = Labels(annos["name"], np.asarray(annos["gt_boxes_lidar"], np.float64)[:, :7])
    return FrameInfo(frame_id, path, labels, points_in_boxes=None if inside is None else np.asarray(inside, np.int64))


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An object; OpenPCDet tells its frame only in the name of its file, <id>_<class>_<number>.bin."""
    name, path, number = str(entry["name"]), str(entry["path"]), int(entry["gt_idx"])
    return {
        "name": name,
        "path": path,
        "frame_id": Path(path).stem.removesuffix(f"_{name}_{number}"),
        "gt_idx": number,
        "box3d_lidar": np.asarray(entry["box3d_lidar"], np.float64)[:7].tolist(),
        "num_points_in_gt": int(entry["num_points_in_gt"]),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m voxel_mae.data.pickles", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("files", type=Path, nargs="+", help="custom_infos_*.pkl and custom_dbinfos_*.pkl")
    args = parser.parse_args(argv)

    def work() -> int:
        for path in args.files:
            print(f"wrote {convert(path)}")
        return 0

    return run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
