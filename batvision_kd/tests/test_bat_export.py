"""The student as an ONNX graph: it answers as PyTorch does, and failures leave nothing behind."""

import json
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")

from batvision_kd import onnx_export
from batvision_kd.models import create_binaural_attention_model
from batvision_kd.onnx_export import Parity, build_onnx, check_parity, parity_inputs, write_export
from shared.errors import ExportError, UserError
from shared.onnx_graphs import session_of
from shared.storage import sha256_of

SHAPE = (2, 32, 48)


def make_student(attention: str):
    """With values where a fresh model has zeros, and used statistics: nothing in the graph may hide behind them."""
    torch.manual_seed(0)
    model = create_binaural_attention_model(8, output_size=(20, 30), attention=attention, attention_levels=(2, 4))
    for p in model.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(4, *SHAPE))
    return model.eval()


@pytest.fixture(scope="module")
def student():
    return make_student("mha")


@pytest.fixture(scope="module")
def exported(student, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "new"
    return folder, write_export(student, folder, audio_shape=SHAPE, card={"max_depth_m": 30.0})


def test_the_file_answers_as_the_student_does(student, exported):
    session = session_of((exported[0] / "student.onnx").read_bytes())
    audio = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(9))
    found = session.run(["depth"], {"audio": audio.numpy()})[0]
    assert found.shape == (1, 1, 20, 30)
    with torch.no_grad():
        np.testing.assert_allclose(found, model_answer := student(audio).numpy(), rtol=1e-4)
    assert model_answer.std() > 1e-3


@pytest.mark.slow
def test_the_reference_attention_exports_too():
    model = make_student("reference")
    assert check_parity(build_onnx(model, SHAPE), model, SHAPE).max_relative_difference < 1e-4


def test_the_record_says_what_the_file_is(student, exported):
    folder, record = exported
    assert json.loads((folder / "export.json").read_text()) == record
    assert record["file"]["sha256"] == sha256_of(folder / "student.onnx")
    assert record["input"]["shape"] == [1, *SHAPE] and record["card"] == {"max_depth_m": 30.0}
    assert record["parameters"] == sum(p.numel() for p in student.parameters())


def test_a_graph_of_other_weights_is_refused(student, exported):
    onnx_bytes = (exported[0] / "student.onnx").read_bytes()
    other = create_binaural_attention_model(8, output_size=(20, 30), attention_levels=(2, 4)).eval()
    with pytest.raises(ExportError, match="does not give PyTorch's depths"):
        check_parity(onnx_bytes, other, SHAPE)


def test_not_a_number_is_not_parity(exported):
    class Broken(torch.nn.Module):
        def forward(self, audio):
            return torch.full((1, 1, 20, 30), float("nan"))

    with pytest.raises(ExportError, match="nan"):
        check_parity((exported[0] / "student.onnx").read_bytes(), Broken(), SHAPE)


def test_a_failed_export_leaves_no_earlier_one(student, tmp_path, monkeypatch):
    for name in ("student.onnx", "export.json"):
        (tmp_path / name).write_text("an earlier export")
    monkeypatch.setattr(onnx_export, "build_onnx", lambda *a: b"not a graph")

    def refuse(*args):
        raise ExportError(str(Parity(4, 1.0, 1e-4)))

    monkeypatch.setattr(onnx_export, "check_parity", refuse)
    with pytest.raises(ExportError, match=r"1\.0e\+00"):
        write_export(student, tmp_path, audio_shape=SHAPE, card={})
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_remedy_is_named(student, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install -e \.\[export\]"):
        build_onnx(student, SHAPE)


def test_parity_inputs_are_seeded_and_differ():
    inputs = parity_inputs(SHAPE)
    assert all(torch.equal(a, b) for a, b in zip(inputs, parity_inputs(SHAPE), strict=True))
    assert len({x.numpy().tobytes() for x in inputs}) == len(inputs)
