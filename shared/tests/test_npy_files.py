"""A .npy file comes back as it was written; whatever else lies in its place is named, and nothing is unpickled."""

import io
import pickle

import numpy as np
import pytest

from shared.errors import DataError
from shared.npy_files import read_npy


def read(path):
    return read_npy(path, "is no table", "write it again.")


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def archive():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.zeros((0, 3), np.float32), np.array(3, np.int16)])
def test_what_was_saved_comes_back(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    found = read(tmp_path / "a.npy")
    assert found.dtype == array.dtype and np.array_equal(found, array)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", pickle.dumps([1.0]), archive(), saved(np.ones(9))[:-4],
                                     saved(np.array([{}]))],
                         ids=["empty", "page", "pickle", "npz", "cut", "objects"])  # fmt: skip
def test_anything_else_is_named_with_the_remedy_and_no_advice_to_trust_it(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npy is no table \(.+\): write it again\.") as found:
        read(tmp_path / "a.npy")
    assert "trust" not in str(found.value)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"b\.npy is missing: write it again"):
        read(tmp_path / "b.npy")
