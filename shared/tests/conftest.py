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


@pytest.fixture
def threads_at_work():
    """torch has two threads and has used them: a fork that uses torch as this process does waits for ever."""
    torch.set_num_threads(2)  # until the end of the test (`same_threads` of the root)
    torch.ones(1 << 20).mul(2)
