"""evaluate.py on a model that was trained in the test: scores, controls, confidence, another root, refusals."""

import json

import pytest

from batvision_kd import evaluate_command, export_command, listening
from batvision_kd.config import resolve
from batvision_kd.training import train

DATA = {"embedded": {"train": 8, "val": 4, "test": 4, "image_hw": [36, 64], "workers": 0}, "image_size": [32, 32],
        "spectrogram": {"size": [32, 32]}}  # fmt: skip
TRAINING = {"nb_epochs": 1, "batch_size": 4, "micro_batch": 4, "num_workers": 0, "device": "cpu", "save_frequency": 1}
TINY = (f"data={json.dumps(DATA)}", f"training={json.dumps(TRAINING)}", "model.base_channels=8")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """best_model.pth of a student after one epoch."""
    folder = tmp_path_factory.mktemp("student")
    places = (f'output_dir="{folder}"', f'data.embedded_dir="{folder}/data"', "experiment_name=audio")
    return train(resolve("audio", overrides=[*TINY, *places])).best


@pytest.mark.slow
def test_scores_controls_and_confidence_are_written(student, tmp_path, capsys):
    arguments = ["--checkpoint", str(student), "--out", str(tmp_path / "out"), "--controls", "--confidence"]
    assert evaluate_command.main(arguments) == 0
    found = json.loads((tmp_path / "out/scores.json").read_text())["results"]
    assert {"model", "shuffled", "swapped", "silence", "one_ear"} < set(found["scores"])
    assert any(name.startswith("constant map") for name in found["scores"])
    assert set(found["scores"]["model"]) == {"strict", "min05", "official"} and found["mark"]
    assert "embedded synthetic data" in (tmp_path / "out/report.html").read_text()
    assert "confidence on test" in capsys.readouterr().out
    root = next((student.parents[2] / "data").glob("world*-*"))
    wav = next(root.glob("*/audio/*.wav"))
    heard = ["--checkpoint", str(student), "--confidence", str(tmp_path / "out/confidence.json"), str(wav)]
    assert listening.main(heard) == 0 and "mean confidence" in capsys.readouterr().out


@pytest.mark.slow
def test_a_missing_root_and_another_max_depth_are_refused(student, tmp_path, capsys):
    common = ["--checkpoint", str(student), "--out", str(tmp_path)]
    assert evaluate_command.main([*common, "--data_dir", str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert evaluate_command.main([*common, "--max_depth_m", "12"]) == 2
    message = capsys.readouterr().err
    assert "30" in message and "12" in message


@pytest.mark.slow
def test_the_student_is_exported(student, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    assert export_command.main(["--checkpoint", str(student), "--out", str(tmp_path / "onnx")]) == 0
    assert (tmp_path / "onnx/student.onnx").is_file() and "against PyTorch" in capsys.readouterr().out
