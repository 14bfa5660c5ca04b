"""Arrays in .npy files that a person may have lost, cut or mixed up: every mistake names the file and the remedy.

points = read_npy(path, "is no .npy table of numbers", "save it with numpy.save as float32.")
"""

from pathlib import Path

import numpy as np

from .errors import DataError

BEGINNING = b"\x93NUMPY"  # of every .npy file


def read_npy(path: Path, broken: str, remedy: str) -> np.ndarray:
    """A file's array; nothing is ever unpickled. DataError with the remedy when it is missing or `broken`."""
    try:
        with path.open("rb") as file:
            if file.read(len(BEGINNING)) != BEGINNING:  # which numpy takes for a pickle, and says how to trust it
                raise ValueError("it does not begin as one does")
            file.seek(0)
            return np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {remedy}") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} {broken} ({error}): {remedy}") from None
