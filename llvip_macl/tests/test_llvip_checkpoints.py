"""Reading and choosing checkpoints: ours are verified, stock ones give their weights, hostile ones nothing."""

import io
import pickle
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch

from llvip_macl.runtime import checkpoints
from shared import checkpoint
from shared.errors import CheckpointError
from shared.testing.damage import shell

WEIGHTS = {"backbone.weight": torch.arange(6.0).reshape(2, 3)}


def save(path, step, **more):
    state = {"state_dict": WEIGHTS, "meta": {}, "position": {"step": step}, "optimizer": {}, **more}
    return checkpoint.save(path, state, step=step, pointers=(checkpoints.LAST,))


def test_plain_keeps_values_and_kinds():
    value = {"a": np.float64(1.5), "b": np.arange(3), "c": (1, [2]), "d": Counter({"x": 2}), "e": {3, 1}}
    result = checkpoints.plain(value)
    assert type(result["a"]) is float
    assert torch.equal(result["b"], torch.arange(3))
    assert result["c"] == (1, [2])
    assert type(result["d"]) is dict
    assert result["e"] == [1, 3]
    with pytest.raises(TypeError, match="object"):
        checkpoints.plain({"x": object()})


def test_the_message_hub_survives_as_lists():
    from mmengine.logging import MessageHub

    hub = MessageHub.get_instance("llvip_hub_one")
    hub.update_scalar("train/loss", 1.5)
    hub.update_scalar("train/loss", 2.5)
    hub.update_info("epoch", 3)
    hub.update_info("strange", object())
    state = checkpoints.hub_state(hub)
    assert state["log_scalars"]["train/loss"][0] == [1.5, 2.5]
    assert "strange" not in state["runtime_info"]
    other = MessageHub.get_instance("llvip_hub_two")
    checkpoints.restore_hub(other, state)
    assert other.get_scalar("train/loss").mean(2) == 2.0
    assert other.get_info("epoch") == 3


def test_a_stock_checkpoint_gives_its_weights_alone(tmp_path):
    from mmengine.logging import HistoryBuffer

    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    stock = {"meta": {"epoch": 7, "best": np.float64(0.3)}, "state_dict": OrderedDict(WEIGHTS),
             "message_hub": {"log_scalars": {"train/loss": buffer}}, "optimizer": {"state": {}}}  # fmt: skip
    torch.save(stock, tmp_path / "epoch_7.pth")
    state, meta = checkpoints.read_weights(tmp_path / "epoch_7.pth")
    assert torch.equal(state["backbone.weight"], WEIGHTS["backbone.weight"])
    assert meta["epoch"] == 7
    with pytest.raises(CheckpointError):  # never as a state to continue from
        checkpoints.read_state(tmp_path / "epoch_7.pth")


@pytest.mark.fault(9)
def test_getattr_of_a_stock_log_does_nothing(tmp_path):
    """MMEngine allows builtins.getattr, by which a pickle reaches os.system; here the name is bound to a stand-in."""
    canary = tmp_path / "canary"
    stream = io.BytesIO()
    torch.save({"state_dict": WEIGHTS}, stream)
    attack = (b"\x80\x02}q\x00(X\x0a\x00\x00\x00state_dict}X\x01\x00\x00\x00xcbuiltins\ngetattr\n"
              b"cnumpy\nndarray\nX\x05\x00\x00\x00dumps\x86R(X\x04\x00\x00\x00evil\x85u.")  # fmt: skip
    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(io.BytesIO(stream.getvalue())) as old, zipfile.ZipFile(path, "w") as new:
        for item in old.infolist():
            new.writestr(item.filename, attack if item.filename.endswith("data.pkl") else old.read(item.filename))
    with pytest.raises(CheckpointError):
        checkpoints.read_weights(path)
    assert not canary.exists()


@pytest.mark.fault(9)
def test_mmengine_reads_files_through_us(tmp_path):
    from mmengine.runner.checkpoint import CheckpointLoader

    schemes = dict(CheckpointLoader._schemes)
    checkpoints.use_safe_loading()
    try:
        torch.save(WEIGHTS, tmp_path / "bare.pth")
        loaded = CheckpointLoader.load_checkpoint(str(tmp_path / "bare.pth"), "cpu")
        assert torch.equal(loaded["state_dict"]["backbone.weight"], WEIGHTS["backbone.weight"])
        (tmp_path / "evil.pth").write_bytes(pickle.dumps(shell(tmp_path / "canary"), protocol=2))
        with pytest.raises(CheckpointError, match="system"):
            CheckpointLoader.load_checkpoint(str(tmp_path / "evil.pth"), "cpu")
        assert not (tmp_path / "canary").exists()
    finally:
        CheckpointLoader._schemes = schemes


@pytest.mark.fault(8)
def test_the_alias_is_followed_and_verified(tmp_path):
    save(tmp_path / "best_epoch1_loss0.5000.pth", 1)
    checkpoints.point_best(tmp_path / "best_epoch1_loss0.5000.pth")
    assert checkpoints.read_weights(tmp_path / "best.pth")[0].keys() == WEIGHTS.keys()
    target = tmp_path / "best_epoch1_loss0.5000.pth"
    target.write_bytes(target.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.read_weights(tmp_path / "best.pth")


@pytest.mark.fault(8)
def test_the_newest_good_state_is_found(tmp_path, caplog):
    assert checkpoints.newest_state(tmp_path) is None
    save(tmp_path / "epoch_1.pth", 3)
    save(tmp_path / "epoch_2.pth", 6)
    assert checkpoints.newest_state(tmp_path)[0].name == "epoch_2.pth"
    (tmp_path / checkpoints.LAST).write_text("/elsewhere/epoch_1.pth")  # as MMEngine writes it: a whole path
    assert checkpoints.newest_state(tmp_path)[0].name == "epoch_1.pth"
    (tmp_path / checkpoints.LAST).write_text("epoch_2.pth")
    (tmp_path / "epoch_2.pth").write_bytes(b"cut")
    with caplog.at_level("WARNING"):
        assert checkpoints.newest_state(tmp_path)[0].name == "epoch_1.pth"
    assert "falling back" in caplog.text
    (tmp_path / "epoch_1.pth").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="none is good"):
        checkpoints.newest_state(tmp_path)


def test_removal_spares_what_is_named(tmp_path):
    save(tmp_path / "epoch_1.pth", 3)
    save(tmp_path / "epoch_2.pth", 6)
    checkpoints.remove([tmp_path / "epoch_1.pth", tmp_path / "epoch_2.pth"])
    assert {path.name for path in tmp_path.iterdir()} == {"epoch_2.pth", "epoch_2.pth.json", checkpoints.LAST}
