"""What several test files of this member share."""

import pytest
from forked_runs import Mark


@pytest.fixture
def mark(tmp_path):
    folder = tmp_path / "marks"
    folder.mkdir()
    return lambda name: Mark(folder / name)
