import pytest
import torch

from pillars_rq.anchors import KITTI_CLASSES
from pillars_rq.grid import Grid
from pillars_rq.network import PointPillars, Widths
from pillars_rq.weights import git_blob_id, load_base, load_folded_encoder, save_base
from shared.errors import CheckpointError

GRID = Grid((0.0, -2.56, -3.0, 7.68, 2.56, 1.0), (0.32, 0.32, 4.0))
OTHER = Grid((0.0, -2.56, -3.0, 10.24, 2.56, 1.0), (0.32, 0.32, 4.0))
SMALL = Widths(8, (8, 12, 16), (1, 0, 2), 4)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file like the published one: a plain table of the 126 tensors, random values."""
    path = tmp_path_factory.mktemp("plain") / "epoch_160.pth"
    torch.manual_seed(0)
    torch.save(PointPillars(Grid.kitti()).state_dict(), path)
    return path


@pytest.fixture
def ours(tmp_path):
    torch.manual_seed(0)
    model = PointPillars(GRID, KITTI_CLASSES[1:], SMALL)
    return save_base(tmp_path / "base.pth", model, step=7, note="x"), model


def damaged(published, tmp_path, change) -> object:
    state = torch.load(published, weights_only=True)
    torch.save(change(state) or state, tmp_path / "foreign.pth")
    return tmp_path / "foreign.pth"


def test_a_plain_table_loads_strictly_and_frozen(published, caplog):
    base = load_base(published)
    state = torch.load(published, weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in base.model.state_dict().items())
    assert not base.model.training and not any(p.requires_grad for p in base.model.parameters())
    assert base.record == {} and base.model.grid == Grid.kitti()
    assert "not those of the published epoch_160.pth" in caplog.text  # its names and shapes, not its bytes


def test_a_plain_table_serves_any_grid(published):
    assert load_base(published, GRID).model.grid == GRID


def test_a_missing_file_names_both_remedies(tmp_path):
    with pytest.raises(CheckpointError) as error:
        load_base(tmp_path / "pretrained/epoch_160.pth")
    for part in ("pretrained/epoch_160.pth", "zhulf0804/PointPillars", "train_pointpillars.py", "Random weights"):
        assert part in str(error.value)


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("head.conv_cls.bias") is None, "1 missing, first `head.conv_cls.bias`"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected, first `extra`"),
        (lambda s: s.update({"head.conv_reg.bias": torch.zeros(14)}), "1 mismatched, first `head.conv_reg.bias"),
        (lambda s: {"state_dict": s}, "tables of weights"),
        (lambda s: {"a": torch.zeros(3)}, "126 missing"),
    ],
)
def test_a_foreign_file_is_refused_with_what_differs(published, tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        load_base(damaged(published, tmp_path, change))
    assert "foreign.pth" in str(error.value) and "126 entries" in str(error.value)


@pytest.mark.fault(10)
def test_wrapper_prefixes_are_taken_off(published, tmp_path):
    path = damaged(published, tmp_path, lambda s: {f"module.{name}": value for name, value in s.items()})
    assert load_base(path).model.grid == Grid.kitti()


def test_our_own_file_rebuilds_its_network(ours):
    path, model = ours
    base = load_base(path)
    assert (base.model.grid, base.model.widths) == (GRID, SMALL) and base.model.classes == KITTI_CLASSES[1:]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in base.model.state_dict().items())
    assert base.record["note"] == "x" and len(base.sha256) == 64


@pytest.mark.fault(10)
def test_our_own_file_of_another_grid_or_other_classes_is_refused(ours):
    path, _ = ours
    assert load_base(path, GRID, KITTI_CLASSES[1:]).model.grid == GRID
    with pytest.raises(CheckpointError, match=r"another grid.*10\.24.*train_pointpillars"):
        load_base(path, OTHER)
    with pytest.raises(CheckpointError, match="another classes"):
        load_base(path, classes=KITTI_CLASSES)


def test_git_names_a_files_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"hello\n")
    assert (
        git_blob_id(tmp_path / "a") == "ce013625030ba8dba906f756967f9e9ca394464a"
    )  # printf 'hello\n' | git hash-object


@pytest.mark.fault(10)
def test_a_folded_encoder_of_another_width_is_refused(tmp_path):
    import numpy as np

    np.savez(tmp_path / "pfn.npz", weight=np.zeros((8, 9), np.float32), bias=np.ones(8, np.float32))
    model = PointPillars(GRID, widths=SMALL).eval()
    load_folded_encoder(model, tmp_path / "pfn.npz")
    floor = model.pillar_encoder.bn(torch.zeros(1, 8))
    assert torch.allclose(floor, torch.ones(1, 8))  # the norm adds the bias and scales by nothing
    with pytest.raises(CheckpointError, match="mismatched"):
        load_folded_encoder(PointPillars(GRID, widths=Widths(4, (4, 4, 4), (0, 0, 0), 2)), tmp_path / "pfn.npz")
