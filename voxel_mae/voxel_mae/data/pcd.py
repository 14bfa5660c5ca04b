"""The Point Cloud Library's .pcd files, version 0.7: a text header, then rows as text or as packed records.

    FIELDS x y z intensity / SIZE 4 4 4 4 / TYPE F F F F / COUNT 1 1 1 1 / ... / POINTS 213 / DATA ascii | binary

Columns are taken by name. Rows whose x, y or z is NaN mark pixels without a return: they are left out, as that is what
the format means by them. `DATA binary_compressed` is refused with the remedy.
"""

# N points, C features asked for

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.errors import DataError

HEADER_BYTES = 4096  # no header is longer; a file without a DATA line in them is something else
KINDS = {"F": "f", "I": "i", "U": "u"}


def read_pcd(path: Path, features: Sequence[str]) -> np.ndarray:
    """Read the named columns: (N, C) float32.

    Raises:
        DataError: no .pcd header, a column is missing, cut short, or compressed.
    """
    content = path.read_bytes()
    header, body = _header(path, content)
    names = header.get("FIELDS", [])
    missing = [name for name in features if name not in names]
    if missing:
        raise DataError(f"{path} has the fields {', '.join(names) or 'none'}, not {missing[0]}: correct "
                        "src_feature_list, or export the cloud anew.")  # fmt: skip
    try:
        rows = _rows(path, header, body)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} is a damaged .pcd file ({type(error).__name__}: {error}): export it anew.") from error
    points = np.stack([rows[name].astype(np.float32) for name in features], 1)
    return points[~np.isnan(points[:, :3]).any(1)]


def _header(path: Path, content: bytes) -> tuple[dict[str, list[str]], bytes]:
    head = content[:HEADER_BYTES]
    start = head.find(b"\nDATA ")
    end = head.find(b"\n", start + 1)
    if start < 0 or end < 0:
        raise DataError(f"{path} is no .pcd file (its first {HEADER_BYTES} bytes hold no DATA line): export it anew.")
    lines = head[:end].decode("ascii", errors="replace").splitlines()
    words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return {first.upper(): rest for first, *rest in words}, content[end + 1 :]


def _rows(path: Path, header: dict[str, list[str]], body: bytes) -> np.ndarray:
    names, count = header["FIELDS"], int(header["POINTS"][0])
    if any(number != "1" for number in header.get("COUNT", [])):
        raise DataError(f"{path} has fields of several values (COUNT {' '.join(header['COUNT'])}): export single ones.")
    kind = header["DATA"][0].lower()
    if kind == "ascii":
        table = np.array(body.split(), np.float64).reshape(-1, len(names))
        rows = np.rec.fromarrays(table.T, names=names)
    elif kind == "binary":
        letters = zip(names, header["TYPE"], header["SIZE"], strict=True)
        record = np.dtype([(name, f"<{KINDS[letter]}{size}") for name, letter, size in letters])
        rows = np.frombuffer(body[: count * record.itemsize], record)
    else:
        raise DataError(f"{path}: DATA {kind} is not read: convert it with `pcl_convert_pcd_ascii_binary IN OUT 1`.")
    if len(rows) != count:
        raise DataError(f"{path} holds {len(rows):,} of the {count:,} points it announces: the copy was cut short.")
    return rows
