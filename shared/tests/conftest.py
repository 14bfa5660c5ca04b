"""What several test files of this member share."""

import pytest
import torch
from forked_runs import Mark
from sample_net import Net


@pytest.fixture
def mark(tmp_path):
    folder = tmp_path / "marks"
    folder.mkdir()
    return lambda name: Mark(folder / name)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()
