"""Weights from elsewhere, and weights whose names or shapes have drifted."""

import contextlib
import random

import pytest
import torch
from torch import nn

from shared import checkpoint
from shared.errors import CheckpointError
from shared.testing.damage import flip, flip_in_tensor, truncate

# --- foreign weights


@pytest.mark.fault(8)
def test_weights_from_elsewhere_are_verified_as_far_as_possible(tmp_path, caplog):
    path = tmp_path / "teacher.pth"
    torch.save({"w": torch.arange(3.0)}, path)
    digest = checkpoint.sha256_of(path)
    assert torch.equal(checkpoint.load_weights(path, digest)["w"], torch.arange(3.0))
    assert "not verified" not in caplog.text
    checkpoint.load_weights(path)
    assert "integrity not verified" in caplog.text
    assert digest in caplog.text
    with pytest.raises(CheckpointError, match="its sha256 is"):
        checkpoint.load_weights(path, "0" * 64)
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint.load_weights(tmp_path / "none.pth")
    torch.save([torch.ones(1)], path)
    with pytest.raises(CheckpointError, match="holds a list, not a dict"):
        checkpoint.load_weights(path)


@pytest.mark.fault(8)
def test_a_manifest_beside_the_weights_is_used(tmp_path, caplog):
    path = checkpoint.save(tmp_path / "distilled.pth", {"w": torch.ones(300)}, step=1)
    assert torch.equal(checkpoint.load_weights(path)["w"], torch.ones(300))
    assert "not verified" not in caplog.text
    flip(0.5, 1)(path)
    with pytest.raises(CheckpointError, match=r"distilled\.pth is damaged"):
        checkpoint.load_weights(path)


@pytest.mark.fault(8)
def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "teacher.safetensors"
    safetensors.save_file({"w": torch.arange(4.0)}, path)
    assert torch.equal(checkpoint.load_weights(path)["w"], torch.arange(4.0))
    truncate(20)(path)
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load_weights(path)


@pytest.mark.fault(8)
@pytest.mark.parametrize("cut", [10, 100, 500, 900])
def test_cut_foreign_files_fail_clearly(tmp_path, cut):
    path = tmp_path / "teacher.pth"
    torch.save({"w": torch.ones(4)}, path)
    truncate(cut)(path)
    with pytest.raises(CheckpointError, match=r"teacher\.pth (cannot be read|was refused)"):
        checkpoint.load_weights(path)


@pytest.mark.fault(8)
def test_a_changed_value_of_a_foreign_file_is_known_by_the_archive_s_checksum(tmp_path):
    path = tmp_path / "teacher.pth"
    torch.save({"w": torch.ones(900)}, path)
    flip_in_tensor(0.5, 3)(path)
    assert not torch.equal(torch.load(path, weights_only=True)["w"], torch.ones(900)), "torch itself says nothing"
    with pytest.raises(CheckpointError, match=r"teacher\.pth is damaged: .*checksum"):
        checkpoint.load_weights(path)


def test_a_foreign_file_may_have_no_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(9)}, tmp_path / "teacher.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(checkpoint.load_weights(tmp_path / "teacher.pth")["w"], torch.ones(9))


@pytest.mark.fault(8)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_damage_to_foreign_files_ends_in_a_load_or_a_clear_error(tmp_path):
    chance, path, seeds = random.Random(0), tmp_path / "teacher.pth", []
    for zipped in (True, False):
        torch.save({"w": torch.ones(9), "x": [1, "a"]}, path, _use_new_zipfile_serialization=zipped)
        seeds.append(path.read_bytes())
    for _ in range(300):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.choice([None, chance.randrange(len(data))])])
        with contextlib.suppress(CheckpointError):
            checkpoint.load_weights(path)


# --- loading into a model


def network() -> nn.Module:
    return nn.ModuleDict({"body": nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "head": nn.Linear(4, 2)})


def renamed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def without(state, key):
    return {name: value for name, value in state.items() if name != key}


def drift_cases():
    """name -> (state dict, kind of deviation, the names reported, patterns that excuse it)."""
    good = network().state_dict()
    shape = {**good, "head.weight": torch.zeros(3, 4)}
    dtype = {**good, "head.weight": torch.zeros(2, 4, dtype=torch.int64)}
    layout = {"backbone": {"conv": torch.zeros(1)}, "epoch": 3}
    return {
        "missing": (without(good, "head.bias"), "missing", ["head.bias"], {"allow_missing": ["head.*"]}),
        "unexpected": ({**good, "extra.w": torch.ones(1)}, "unexpected", ["extra.w"], {"allow_unexpected": ["extra*"]}),
        "wrong shape": (shape, "mismatched", ["head.weight: file (3, 4)"], {"allow_mismatched": ["head.weight"]}),
        "wrong dtype": (dtype, "mismatched", ["head.weight: file (2, 4) int64"], {"allow_mismatched": ["head.*"]}),
        "module.": (renamed(good, "module."), None, [], {}),
        "_orig_mod.": (renamed(good, "_orig_mod.module."), None, [], {}),
        "EMA only": ({"ema": dict(good)}, "unexpected", ["ema"], None),
        "another layout": (layout, "missing", ["body.0.weight"], None),
    }


@pytest.mark.fault(10)
@pytest.mark.parametrize("case", drift_cases())
def test_key_drift_is_reported_and_leaves_the_model_alone(case):
    state, kind, names, excuses = drift_cases()[case]
    model = network()
    before = checkpoint.tensors_sha256(model.state_dict())
    if kind is None:
        report = checkpoint.load_into(model, state)
        assert report.coverage == 1.0
        assert not report.missing + report.unexpected + report.mismatched
        return
    with pytest.raises(CheckpointError, match=f"{kind}, first") as error:
        checkpoint.load_into(model, state)
    assert all(name in str(error.value) for name in names)
    assert checkpoint.tensors_sha256(model.state_dict()) == before
    if excuses is None:
        assert "tables of weights" in str(error.value)
        with pytest.raises(CheckpointError, match="nothing was loaded"):
            checkpoint.load_into(model, state, allow_missing=["*"], allow_unexpected=["*"])
    else:
        report = checkpoint.load_into(model, state, **excuses)
        assert any(names[0] in name for name in getattr(report, kind)), "excused, and still listed"
        assert names[0] in str(report)
        assert report.loaded


def test_loading_loads():
    source, model = network(), network()
    report = checkpoint.load_into(model, source.state_dict())
    assert checkpoint.tensors_sha256(model.state_dict()) == checkpoint.tensors_sha256(source.state_dict())
    assert len(report.loaded) == len(model.state_dict())
    half = {name: value.half() if value.is_floating_point() else value for name, value in source.state_dict().items()}
    checkpoint.load_into(model, half)
    assert model["head"].weight.dtype == torch.float32
    assert torch.equal(model["head"].weight, source["head"].weight.half().float())


@pytest.mark.fault(10)
def test_coverage_is_the_share_of_values_and_a_floor_holds():
    model = network()
    partial = {name: value for name, value in network().state_dict().items() if name.startswith("head")}
    total = sum(value.numel() for value in model.state_dict().values())
    report = checkpoint.load_into(model, partial, allow_missing=["body.*"], min_coverage=10 / total)
    assert report.coverage == pytest.approx(10 / total)
    with pytest.raises(CheckpointError, match=r"is below the 90\.00 % asked for"):
        checkpoint.load_into(model, partial, allow_missing=["*"], min_coverage=0.9)


@pytest.mark.fault(10)
def test_a_name_that_two_prefixes_give_is_refused():
    state = network().state_dict()
    with pytest.raises(CheckpointError, match=r"`head\.bias` twice"):
        checkpoint.load_into(network(), {**state, "module.head.bias": torch.ones(2)})
