"""What several test files of this member share."""

import shutil

import pytest
from custom_root_samples import prepared_root


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The sample root with its infos and database, which nobody changes."""
    return prepared_root(tmp_path_factory.mktemp("custom") / "root")


@pytest.fixture
def root(prepared, tmp_path):
    """A copy of it for one test."""
    return shutil.copytree(prepared, tmp_path / "root")
