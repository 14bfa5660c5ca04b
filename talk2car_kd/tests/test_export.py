"""--stage export: the graph answers as PyTorch does, the sizes add up, and failures leave nothing."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
import onnxruntime

from shared.errors import ConfigError, ExportError, UserError
from talk2car_kd import onnx_export
from talk2car_kd.config import PACKAGE_ROOT, Export
from talk2car_kd.grounding import Talk2CarModel, build_head
from talk2car_kd.latency import check_names
from talk2car_kd.onnx_export import GroundingGraph, Parity, check_parity, parity_inputs, token_ids_of, write_export
from talk2car_kd.pipeline import main
from talk2car_kd.single import Grounder
from talk2car_kd.student import empty_like_student

LONG = "turn left at the red car " * 20


@pytest.fixture(scope="module")
def grounder(tiny_run) -> Grounder:
    """A barely trained model, without its place scores: they alone would choose one cell for everything."""
    grounder = Grounder.load(tiny_run.checkpoint)
    with torch.no_grad():
        for parameter in grounder.model.head.score.where.parameters():
            parameter.zero_()
    return grounder


@pytest.fixture(scope="module")
def exported(grounder, tmp_path_factory):
    """(folder, record) of one real export."""
    folder = tmp_path_factory.mktemp("export")
    return folder, write_export(grounder, folder)


@pytest.fixture(scope="module")
def session(exported):
    return onnxruntime.InferenceSession(exported[0] / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("command", ["stop", "turn left behind the red car", LONG])
def test_ids_with_padding_read_like_the_teachers_own_tokens(grounder, command):
    """The graph's padded ids and its mask against Teacher.read, which cuts the padding off."""
    image = torch.rand(1, 3, *grounder.input_hw, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(grounder.record[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    text = grounder.teacher.read([command], grounder.text_len)[0]
    ids = token_ids_of(grounder, command)
    assert ids.shape == (1, grounder.text_len) and ids.dtype == torch.int64
    with torch.no_grad():
        boxes, scores = GroundingGraph(grounder).eval()(image, ids)
        wanted = grounder.model((image - mean) / std, text.states[None], token_ids=text.ids[None])
    torch.testing.assert_close(scores, wanted["score_map"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(boxes, wanted["boxes_cxcywh"], rtol=1e-4, atol=1e-5)


def test_the_file_has_the_promised_inputs_and_outputs(grounder, session):
    shapes = {value.name: (value.shape, value.type) for value in [*session.get_inputs(), *session.get_outputs()]}
    h, w = grounder.input_hw
    assert shapes == {
        "image": ([1, 3, h, w], "tensor(float)"),
        "token_ids": ([1, grounder.text_len], "tensor(int64)"),
        "boxes_cxcywh": ([1, 4], "tensor(float)"),
        "score_map": ([1, h // 8, w // 8], "tensor(float)"),
    }


def test_the_file_answers_as_the_grounder_does(grounder, session):
    """From uint8 pixels and a sentence, through the file, to the pixels of the annotation frame."""
    rng = np.random.default_rng(3)
    best = set()
    for command in ("stop", "turn left behind the red car", "park by the truck"):
        image = rng.integers(0, 256, (*grounder.input_hw, 3), dtype=np.uint8)
        planes = (image.astype(np.float32) / 255).transpose(2, 0, 1)[None]
        boxes, scores = session.run(None, {"image": planes, "token_ids": token_ids_of(grounder, command).numpy()})
        cx, cy, w, h = boxes[0]
        x1, y1, x2, y2 = np.clip([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 0, 1)
        expected = np.array([x1, y1, x2 - x1, y2 - y1]) * [1600, 900, 1600, 900]
        np.testing.assert_allclose(grounder.ground(image, command).box_frame_px, expected, atol=0.05)
        best.add(int(scores.argmax()))
    assert len(best) > 1  # the gather of the best cell is not a constant


def test_the_record_tells_sizes_apart_and_they_add_up(exported, grounder):
    folder, record = exported
    assert record == json.loads((folder / "export.json").read_text())
    counts = record["parameters"]
    assert counts["total"] == counts["student_tower"] + counts["head"] + counts["text_tower"]
    size = (folder / "model.onnx").stat().st_size
    assert record["file"]["bytes"] == size
    assert 4 * counts["total"] < size < 1.3 * 4 * counts["total"]  # the file holds these weights and little else
    assert record["parity"]["decided"] >= 3 and max(record["parity"]["max_abs_difference"].values()) <= 1e-4
    assert record["mark"] == grounder.mark


def test_parity_inputs_differ_and_repeat(grounder):
    first, again = parity_inputs(grounder), parity_inputs(grounder)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    lengths = {int(ids.argmax()) for _, ids in first}
    assert len(lengths) == len(first) and max(lengths) == grounder.text_len - 1


def test_another_graph_fails_and_leaves_nothing(exported, grounder, tmp_path, monkeypatch):
    """The bytes of another model in place of the export: an earlier export is gone too."""
    bytes_ = (exported[0] / "model.onnx").read_bytes()
    monkeypatch.setattr(onnx_export, "build_onnx", lambda _: bytes_)
    write_export(grounder, tmp_path)
    assert (tmp_path / "model.onnx").exists()
    other = Grounder.load(grounder.path)
    with torch.no_grad():
        other.model.head.box.join.out.bias += 0.01
    with pytest.raises(ExportError, match=r"talk2car_best\.pth.*does not give PyTorch's numbers.*Nothing.*onnxruntime"):
        write_export(other, tmp_path)
    assert issubclass(ExportError, UserError)  # a message and exit code 2, no traceback
    assert list(tmp_path.iterdir()) == []


def test_nan_is_no_parity(exported, grounder):
    other = Grounder.load(grounder.path)
    with torch.no_grad():
        other.model.head.reg.fill_(float("nan"))
    with pytest.raises(ExportError, match="does not give"):
        check_parity((exported[0] / "model.onnx").read_bytes(), other)


def test_the_projection_head_has_no_score_map(tiny_run, grounder):
    config = tiny_run.config.stage2.head.model_copy(update={"kind": "projection"})
    encoder = tiny_run.model.encoder
    model = Talk2CarModel(encoder, build_head(config, encoder.map_dim, tiny_run.teacher.text_width))
    baseline = Grounder(model, grounder.teacher, grounder.path, grounder.record, grounder.config)
    parity = check_parity(onnx_export.build_onnx(baseline), baseline)
    assert isinstance(parity, Parity) and list(parity.max_abs_difference) == ["boxes_cxcywh"]


def command(tiny_run, tmp_path, *more):
    return [
        *(sys.executable, str(PACKAGE_ROOT / "main.py"), "--stage", "export", "--run", "e"),
        *("--config", str(PACKAGE_ROOT / "tests" / "tiny.yaml"), "--set", f"data.results_dir={tmp_path / 'results'}"),
        *("--set", f"data.embedded_dir={tmp_path / 'world'}", *more),
    ]


@pytest.mark.fault(5)
def test_sigterm_ends_the_command_with_143_and_no_file(tiny_run, tmp_path):
    arguments = command(tiny_run, tmp_path, "--checkpoint", str(tiny_run.checkpoint))
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("exporting"):
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            break
    rest = process.communicate(timeout=30)[0]
    assert process.returncode == 143, "".join(lines) + rest
    assert "Traceback" not in rest
    assert list((tmp_path / "results" / "e" / "export").iterdir()) == []


def test_no_checkpoint_at_all(tiny_run, tmp_path):
    assert main(command(tiny_run, tmp_path)[2:]) == 2


SMALL = ("--set", "export.image_towers=[ViT-S-32-alt]", "--set", "export.rounds=1")


@pytest.mark.readme("python main.py --stage export")
def test_the_command_measures_the_student_beside_clip_and_reports_it(tiny_run, tmp_path, capsys, readme):
    (line,) = readme
    more = command(tiny_run, tmp_path, "--checkpoint", str(tiny_run.checkpoint), *SMALL)[4:]  # after --stage export
    assert main([*line.arguments, *more]) == 0
    printed, folder = capsys.readouterr().out, tmp_path / "results" / "e" / "export"
    assert (folder / "model.onnx").is_file()
    record = json.loads((folder / "export.json").read_text())
    h, w = tiny_run.config.stage2.input_hw
    names = [row["name"] for row in record["latency"]["towers"]]
    assert names == ["student 224", f"student {h}x{w}", "ViT-S-32-alt 224"]
    assert all(row["latency_ms"] > 0 and row["gmacs"] > 0 for row in record["latency"]["towers"])
    report = (folder / "report.html").read_text()
    for row in record["latency"]["towers"]:
        assert row["name"] in printed and f"{row['latency_ms']:.1f}" in report
    assert tiny_run.config.data.mark in report


def test_a_tower_nobody_knows_is_told():
    check_names(Export().image_towers)
    with pytest.raises(ConfigError, match="ViT-B-31"):
        check_names(["ViT-B-32", "ViT-B-31"])


@pytest.mark.parametrize("stride", [16, 32])
def test_coarser_maps_export_too(tiny_run, grounder, stride):
    """The real recipe's stride 16 pools the finer level, which the tiny one (stride 8) never does."""
    student = tiny_run.config.student.model_copy(update={"map_stride": stride, "multiscale": stride == 16})
    encoder = empty_like_student(student, tiny_run.teacher.embed_dim)
    head = build_head(tiny_run.config.stage2.head, encoder.map_dim, tiny_run.teacher.text_width)
    other = Grounder(Talk2CarModel(encoder, head), grounder.teacher, grounder.path, grounder.record, grounder.config)
    parity = check_parity(onnx_export.build_onnx(other), other)
    assert parity.max_abs_difference["score_map"] <= 1e-4
