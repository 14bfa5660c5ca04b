"""What several test files of this member share."""

import pytest
from llvip_pair_samples import llvip_tree
from llvip_samples import Work, warm


@pytest.fixture(scope="session")
def kinds():
    """The data set classes (importing mmdet takes seconds: once)."""
    from llvip_macl.data.kaist import KAISTDataset
    from llvip_macl.data.llvip import LLVIPDataset
    from llvip_macl.data.pair_list import PairListDataset

    return {"llvip": LLVIPDataset, "kaist": KAISTDataset, "list": PairListDataset}


@pytest.fixture
def llvip(tmp_path):
    return llvip_tree(tmp_path / "LLVIP")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of drawn worlds that all trainings of a test file share."""
    warm()
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A training of one epoch."""
    one = Work(tmp_path_factory.mktemp("trained") / "one", data)
    one.train("train_cfg.max_epochs=1")
    return one


@pytest.fixture
def work(data, tmp_path):
    """A training that has not begun."""
    return Work(tmp_path / "one", data)
