import json

import pytest
import torch

from pillars_rq.anchors import KITTI_CLASSES
from pillars_rq.grid import Grid
from pillars_rq.network import PointPillars, Widths
from shared.errors import ExportError

pytest.importorskip("onnxscript")

from pillars_rq.onnx_export import HeadGraph, TailGraph, check_parity, head_inputs, main, tail_inputs, write_onnx
from pillars_rq.weights import load_base, save_base

GRID = Grid((0.0, -2.56, -3.0, 5.12, 2.56, 1.0), (0.32, 0.32, 4.0), max_points=4)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model = PointPillars(GRID, KITTI_CLASSES[:2], Widths(8, (8, 8, 8), (1, 0, 0), 4)).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, 0, 0.3)
    torch.nn.init.normal_(model.head.conv_reg.weight)
    folder = tmp_path_factory.mktemp("onnx")
    return model, folder, write_onnx(model, folder)


def test_both_graphs_give_pytorchs_numbers(exported):
    _, folder, record = exported
    assert json.loads((folder / "export.json").read_text()) == record
    assert set(record["parity"]) == set(record["files"]) == {"headnet.onnx", "tailnet.onnx"}
    assert set(record["parity"]["tailnet.onnx"]["relative_difference"]) == {"cls", "reg", "dir"}
    assert (folder / "headnet.onnx").stat().st_size == record["files"]["headnet.onnx"]["bytes"]


def test_any_number_of_pillars_and_frames_runs(exported):
    import onnxruntime

    model, folder, _ = exported
    head, tail = (onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("headnet", "tailnet"))
    for pillars in (1, 3, 200):
        (one,) = head_inputs(model, (pillars,))
        assert head.run(None, {name: value.numpy() for name, value in one.items()})[0].shape == (pillars, 8)
    for frames in (1, 5):
        cls, reg, turn = tail.run(None, {"canvas": torch.zeros(frames, 8, 16, 16).numpy()})
        assert (cls.shape, reg.shape, turn.shape) == ((frames, 8, 8, 8), (frames, 28, 8, 8), (frames, 8, 8, 8))


def test_a_graph_of_other_weights_is_noticed(exported):
    model, folder, _ = exported
    other = PointPillars(GRID, KITTI_CLASSES[:2], model.widths).eval()
    for name, graph, inputs in (("headnet", HeadGraph, head_inputs), ("tailnet", TailGraph, tail_inputs)):
        data = (folder / f"{name}.onnx").read_bytes()
        check_parity(data, graph(model), inputs(model))
        with pytest.raises(ExportError, match="does not give PyTorch's numbers"):
            check_parity(data, graph(other), inputs(model))


def test_the_command_exports_a_weights_file_and_prints_the_parity(exported, tmp_path, capsys):
    model, *_ = exported
    weights = save_base(tmp_path / "base.pth", model, step=3)
    assert main([str(weights), "--out", str(tmp_path / "new" / "onnx")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(".onnx")[0].rsplit("/")[-1] for line in said] == ["headnet", "tailnet"]
    assert all("difference to PyTorch" in line and "at most 1e-04" in line for line in said)
    record = json.loads((tmp_path / "new/onnx/export.json").read_text())
    assert record["weights_sha256"] == load_base(weights).sha256 and record["grid"] == GRID.as_dict()
    for name, graph, inputs in (("headnet", HeadGraph, head_inputs), ("tailnet", TailGraph, tail_inputs)):
        check_parity((tmp_path / f"new/onnx/{name}.onnx").read_bytes(), graph(model), inputs(model))


def test_the_command_refuses_what_it_cannot_read_or_write(exported, tmp_path, capsys):
    model, _, _ = exported
    assert main([str(tmp_path / "absent.pth"), "--out", str(tmp_path / "onnx")]) == 2
    assert "train_pointpillars.py" in capsys.readouterr().err and not (tmp_path / "onnx").exists()
    weights = save_base(tmp_path / "base.pth", model, step=3)
    (tmp_path / "file").write_text("")
    assert main([str(weights), "--out", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err
