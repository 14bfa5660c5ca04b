"""What several test files of this member share."""

import pytest
from llvip_pair_samples import llvip_tree


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
