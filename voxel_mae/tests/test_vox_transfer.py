"""Weight transfer: what arrives, what is refused (T17), and OpenPCDet's files in both of spconv's layouts (T25)."""

import json
import logging

import pytest
import torch
from detector_samples import (
    BEV,
    small_backbone,
    small_batch,
    small_detector,
    small_grid,
    small_pretrainer,
    small_settings,
)

from shared import checkpoint
from shared.errors import CheckpointError
from voxel_mae import convert
from voxel_mae.detector import RMAECMAEDetectorPhase1
from voxel_mae.sparse import sparse_tensor, spconv
from voxel_mae.transfer import load_params_from_file


def saved(path, model):
    return checkpoint.save(path, {"model_state": model.state_dict(), "epoch": 3, "it": 7}, step=7, pointers=())


def copies(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, before, prefix=""):
    return all(
        torch.equal(value, before[name]) for name, value in model.state_dict().items() if name.startswith(prefix)
    )


# --- from pretraining to detection ------------------------------------------------------------------------------------


def test_the_student_s_backbone_arrives_bit_for_bit(tmp_path, caplog):
    source, target = small_pretrainer(seed=1), small_detector(seed=2)
    before = copies(target)
    with caplog.at_level(logging.INFO):
        report = load_params_from_file(target, saved(tmp_path / "checkpoint_epoch_3.pth", source))
    theirs = source.backbone.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in target.backbone.state_dict().items())
    assert same(target, before, "dense_head.") and not same(target, before, "backbone_3d.conv1")
    assert {name.split(".")[0] for name in report.missing} == {"dense_head"} and not report.mismatched
    assert "100.0 % of the backbone" in caplog.text and "teacher" in caplog.text and "occupancy" in caplog.text


def test_it_is_the_student_and_not_the_teacher(tmp_path):
    source = small_pretrainer(seed=1)
    with torch.no_grad():
        source.backbone.conv1[0].conv1.bias.fill_(5.0)
    target = small_detector()
    load_params_from_file(target, saved(tmp_path / "a.pth", source))
    assert (target.backbone_3d.conv1[0].conv1.bias == 5).all()


def test_the_detector_gives_the_student_s_features(tmp_path):
    source, target = small_pretrainer(seed=1).eval(), small_detector(seed=2).eval()
    load_params_from_file(target, saved(tmp_path / "a.pth", source))
    batch = small_batch()
    with torch.no_grad():
        expected = source.pretrainer.student_forward(batch, torch.ones(len(batch), dtype=torch.bool))["conv4"]
        found = target.backbone_3d(batch).levels["conv4"]
    torch.testing.assert_close(found.features, expected.features)


def test_a_detector_s_checkpoint_brings_its_head_too(tmp_path):
    source, target = small_detector(seed=1), small_detector(seed=2)
    report = load_params_from_file(target, saved(tmp_path / "a.pth", source))
    assert same(target, copies(source)) and not report.missing and report.coverage == 1


@pytest.mark.fault(10)
def test_a_data_parallel_checkpoint_without_manifest_arrives(tmp_path, caplog):
    source, target = small_detector(seed=1), small_detector(seed=2)
    wrapped = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save({"model_state": wrapped}, tmp_path / "a.pth")
    load_params_from_file(target, tmp_path / "a.pth")
    assert same(target, copies(source)) and "not verified" in caplog.text


# --- refusals: the detector keeps its values --------------------------------------------------------------------------


def refused(tmp_path, content, match, target=None, **options):
    target = target or small_detector(seed=2)
    before = copies(target)
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=match) as error:
        load_params_from_file(target, tmp_path / "a.pth", **options)
    assert same(target, before) and "a.pth" in str(error.value)
    return str(error.value)


@pytest.mark.fault(10)
def test_another_feature_count_fails_loudly(tmp_path):
    """Trap T17: 5 point features into 3."""
    state = small_pretrainer().state_dict()
    name = "pretrainer.backbone_3d.conv_input.0.weight"
    state[name] = torch.randn(*state[name].shape[:-1], 5)
    message = refused(tmp_path, {"model_state": state}, "backbone_3d.conv_input.0.weight")
    assert "5 point features into 4 channels, the configuration 3 into 4" in message and "used_feature_list" in message


@pytest.mark.fault(10)
def test_other_widths_fail_loudly(tmp_path):
    wide = small_detector(widths=(4, 8, 16, 16, 16))
    message = refused(tmp_path, {"model_state": wide.state_dict()}, r"backbone's values fit, 100\.00 % are asked for")
    assert "CHANNELS" in message and "conv3" in message
    refused(tmp_path, {"model_state": wide.state_dict()}, "mismatched", min_coverage=0.01)  # never silently dropped


@pytest.mark.fault(10)
def test_one_missing_tensor_fails_unless_less_is_asked_for(tmp_path):
    state = small_pretrainer(seed=1).state_dict()
    del state["pretrainer.backbone_3d.conv6.0.0.weight"]
    refused(tmp_path, {"model_state": state}, r"backbone_3d\.conv6\.0\.0\.weight \(missing\)")
    target = small_detector(seed=2)
    report = load_params_from_file(target, tmp_path / "a.pth", min_coverage=0.5)
    assert "backbone_3d.conv6.0.0.weight" in report.missing
    refused(tmp_path, {"model_state": state}, r"99\.90 % are asked for", min_coverage=0.999)


@pytest.mark.fault(10)
@pytest.mark.parametrize(("key", "voxel", "name"), [("grid_voxel_m", (0.4, 0.4, 0.4), "VOXEL_SIZE")])
def test_another_voxel_size_is_refused(tmp_path, key, voxel, name):
    source = small_detector(grid=small_grid(voxel))
    message = refused(tmp_path, {"model_state": source.state_dict()}, name)
    assert "0.4" in message and "0.2" in message


@pytest.mark.fault(10)
def test_another_range_is_refused_and_an_unknown_one_is_said(tmp_path, caplog):
    state = small_detector().state_dict()
    state["grid_range_m"] = state["grid_range_m"] * 2
    refused(tmp_path, {"model_state": state}, "POINT_CLOUD_RANGE")
    del state["grid_range_m"]
    torch.save({"model_state": state}, tmp_path / "a.pth")
    load_params_from_file(small_detector(seed=2), tmp_path / "a.pth")
    assert "does not state its POINT_CLOUD_RANGE" in caplog.text


@pytest.mark.fault(10)
def test_another_head_is_refused(tmp_path):
    other = small_detector(settings=small_settings(((1, 2),)))
    refused(tmp_path, {"model_state": other.state_dict()}, r"dense_head\.heads_list\.0\.hm\.1")


@pytest.mark.fault(8, 10)
def test_files_that_are_no_weights_are_refused(tmp_path):
    refused(tmp_path, {"model_state": {"fc.weight": torch.ones(2)}}, r"no `backbone_3d\.\*` weights")
    (tmp_path / "a.pth").write_text("<html>")
    with pytest.raises(CheckpointError, match="HTML"):
        load_params_from_file(small_detector(), tmp_path / "a.pth")


@pytest.mark.fault(10)
def test_pretraining_takes_no_weights(tmp_path):
    refused(tmp_path, {"model_state": small_detector().state_dict()}, "pretrains", small_pretrainer())


# --- OpenPCDet's checkpoints ------------------------------------------------------------------------------------------


def as_openpcdet(detector, layout):
    """Our weights as OpenPCDet's file would hold them: 1x1 convolutions as such, and other modules beside them."""
    state = {}
    for name, value in detector.state_dict().items():
        if name.startswith("grid_"):
            continue
        if name.startswith("dense_head") and value.ndim == 2:  # Linear (out, in): the file's memory is [in, out]
            shape = (1, 1, *value.T.shape) if layout == "spconv 1.x" else (value.shape[0], 1, 1, value.shape[1])
            value = value.T.reshape(shape)
        elif value.ndim >= 4 and layout == "spconv 1.x":
            value = value.movedim(0, -1)
        state[name] = value.contiguous()
    return {"global_step": torch.tensor(9), "point_head.weight": torch.ones(3), **state}


@pytest.mark.parametrize("layout", ["spconv 1.x", "spconv 2.x"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_converted_checkpoint_is_the_same_detector(tmp_path, layout, kernel, capsys):
    source = small_detector(seed=1, settings=small_settings(kernel=kernel)).eval()
    target = small_detector(seed=2, settings=small_settings(kernel=kernel)).eval()
    torch.save({"model_state": as_openpcdet(source, layout), "epoch": 80}, tmp_path / "voxelnext.pth")
    assert convert.main([str(tmp_path / "voxelnext.pth"), str(tmp_path / "out" / "ours.pth")]) == 0
    said = capsys.readouterr().out
    assert layout in said and "3 point features" in said and "point_head.weight" in said
    manifest = checkpoint.manifest(tmp_path / "out" / "ours.pth")
    assert layout in json.dumps(manifest) and "voxelnext.pth" in json.dumps(manifest)
    report = load_params_from_file(target, tmp_path / "out" / "ours.pth")
    assert same(target, copies(source)) and set(report.missing) == {"grid_range_m", "grid_voxel_m"}


@pytest.mark.parametrize(("layer", "axes"), [(spconv.SubMConv2d, 2), (spconv.SubMConv3d, 3)])
def test_a_converted_pointwise_weight_does_what_spconv_s_layer_did(layer, axes):
    """Trap T25: spconv reads the memory of a 1x1 weight as [in, out], although its shape is (out, 1, 1, in)."""
    torch.manual_seed(0)
    theirs = layer(3, 5, 1, bias=False)  # the default algorithm: with a kernel of 1 it runs on CPU
    indices = torch.tensor([[0] + [k] * axes for k in range(6)], dtype=torch.int32)
    features = torch.randn(6, 3)
    expected = theirs(sparse_tensor(features, indices, [8] * axes, 1)).features
    state = {"backbone_3d.a": torch.zeros(16, 3, 3, 3, 5), "dense_head.x": theirs.weight.detach()}
    ours, report = convert.convert_state(state)
    torch.testing.assert_close(features @ ours["dense_head.x"].T, expected)
    assert report.moved == ("dense_head.x",) and report.layout == "spconv 2.x"


def test_the_layout_of_a_first_layer_with_three_features_is_left_to_the_others():
    assert convert.find_layout({"a": torch.zeros(3, 3, 3, 3, 3), "b": torch.zeros(3, 3, 3, 4, 8)}) == "spconv 1.x"
    assert convert.find_layout({"a": torch.zeros(3, 3, 3, 3, 3), "b": torch.zeros(8, 3, 3, 3, 4)}) == "spconv 2.x"


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(3, 3, 3, 4, 8), (8, 3, 3, 3, 4)], "spconv 1.x and spconv 2.x"),
        ([(8, 4, 3, 3)], "neither"),
        ([], "no layout"),
    ],
)
def test_unclear_layouts_are_refused(shapes, message):
    with pytest.raises(CheckpointError, match=message):
        convert.find_layout({f"w{k}": torch.zeros(shape) for k, shape in enumerate(shapes)})


def test_the_command_refuses_in_words(tmp_path, capsys):
    path = tmp_path / "a.pth"
    torch.save({"model_state": as_openpcdet(small_detector(), "spconv 2.x")}, path)
    assert convert.main([str(path), str(path)]) == 2 and "itself" in capsys.readouterr().err
    assert convert.main([str(tmp_path / "none.pth"), str(tmp_path / "b.pth")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_every_layer_of_the_paper_s_backbone_has_an_openpcdet_name():
    """The names of VoxelResBackBone8xVoxelNeXt, block by block."""
    names = set(small_backbone().state_dict())
    blocks = [f"conv{level}.{block}.conv{k}.weight" for level in range(2, 7) for block in (1, 2) for k in (1, 2)]
    firsts = [f"conv{level}.0.{part}" for level in range(2, 7) for part in ("0.weight", "1.running_var")]
    ends = [
        "conv_input.0.weight",
        "conv1.0.bn2.bias",
        "conv_out.0.weight",
        "shared_conv.0.bias",
        "shared_conv.1.weight",
    ]
    assert set(blocks + firsts + ends) <= names
    grid = small_grid()
    detector = RMAECMAEDetectorPhase1(grid, small_backbone(grid), detection=small_settings())
    assert detector.state_dict()["dense_head.heads_list.0.hm.1.weight"].shape == (4, BEV)
