"""The lint lists what is legal but suspicious, one finding a cause, and never fails a readable root."""

import json
from pathlib import Path

import pytest

from shared.errors import DataError
from talk2car_kd.lint import lint, main


def _row(k: int, **values) -> dict:
    return {
        "scene_token": "scene",
        "sample_token": f"sample-{k}",
        "command": "follow the red car",
        "obj_name": "vehicle.car",
        "command_token": f"token-{k}",
        "2d_box": [400, 400, 100, 100],
        "t2c_img": f"{k}.jpg",
        **values,
    }


def _talk2car(root: Path, *rows: dict) -> Path:
    (root / "commands").mkdir()
    (root / "commands/train_commands.json").write_text(json.dumps({"commands": [_row(0), *rows]}))
    return root


def test_a_sound_row_is_not_suspicious(tmp_path, capsys):
    assert lint(_talk2car(tmp_path)) == []
    assert main([str(tmp_path)]) == 0
    assert "nothing suspicious" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"command": "stop at the car on the right"}, "side"),
        ({"2d_box": [400, 400, 12, 60]}, "tiny box"),
        ({"2d_box": [0, 0, 1500, 890]}, "huge box"),
        ({"command": "stop over there"}, "class not named"),
        ({"obj_name": "vehicle.spaceship.car2"}, "unknown class"),
        ({"command": "car"}, "short"),
        ({"command": "follow the car " + "very " * 50 + "slowly"}, "long"),
        ({"command": "follow the car to the café"}, "characters"),
        ({"sample_token": "sample-0", "2d_box": [900, 400, 100, 100]}, "ambiguous"),
        ({"sample_token": "sample-0", "command": "Follow the red car."}, "repeated"),
    ],
)
def test_talk2car_findings(tmp_path, values, kind):
    findings = lint(_talk2car(tmp_path, _row(1, **values)))
    assert [finding.kind for finding in findings] == [kind]
    assert "train_commands.json" in findings[0].where


@pytest.mark.parametrize(
    "values",
    [
        {"command": "turn right at the car"},  # the car's own way
        {"command": "stop right behind that car"},  # an adverb
        {"command": "the car on the right", "2d_box": [740, 400, 100, 100]},  # hardly off the middle
        {"command": "pick up the ladies", "obj_name": "human.pedestrian.adult"},
        {"2d_box": None, "command": "the car on the right"},
        {"obj_name": None, "command": "stop over there"},
    ],
)
def test_no_false_alarm(tmp_path, values):
    root = _talk2car(tmp_path)
    path = root / "commands/train_commands.json"
    path.rename(root / "commands/test_commands.json")  # test rows may lack boxes
    path = root / "commands/test_commands.json"
    path.write_text(json.dumps([_row(0), _row(1, **values)]))
    assert lint(root) == []


def _coco(root: Path, *annotations: dict) -> Path:
    (root / "annotations").mkdir()
    (root / "images").mkdir()
    base = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2000, "iscrowd": 0}
    rows = [base, *({**base, "id": 2 + k, **row} for k, row in enumerate(annotations))]
    images = [{"id": 1, "file_name": "1.jpg", "width": 400, "height": 300}]
    document = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "car"}]}
    (root / "annotations/instances.json").write_text(json.dumps(document))
    return root


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"bbox": [10, 10, 5, 50], "area": 100}, "tiny box"),
        ({"bbox": [10, 10, 300, 9], "area": 900}, "thin box"),
        ({}, "repeated box"),
        ({"bbox": [60, 10, 20, 20]}, "mask beyond box"),
    ],
)
def test_coco_findings(tmp_path, values, kind):
    findings = lint(_coco(tmp_path, values))
    assert [(finding.kind, finding.where) for finding in findings] == [(kind, "instances.json annotation 2")]


def test_coco_images_and_captions(tmp_path):
    root = _coco(tmp_path)
    path = root / "annotations/instances.json"
    document = json.loads(path.read_text())
    document["images"].append({"id": 2, "file_name": "2.jpg", "width": 400, "height": 300})
    path.write_text(json.dumps(document))
    captions = {"annotations": [{"id": 7, "image_id": 1, "caption": "Car."}]}
    (root / "annotations/captions.json").write_text(json.dumps(captions))
    assert [finding.kind for finding in lint(root)] == ["no objects", "short caption"]


def test_neither_nor(tmp_path, capsys):
    with pytest.raises(DataError, match=r"Talk2Car(.|\n)*COCO"):
        lint(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.fault(15)
def test_structural_faults_are_left_to_validate(tmp_path):
    with pytest.raises(DataError, match="'command' is empty"):
        lint(_talk2car(tmp_path, _row(1, command=" ")))


def test_printed_findings_are_limited(tmp_path, capsys):
    root = _talk2car(tmp_path, *(_row(k, command="stop over there") for k in range(1, 31)))
    assert main([str(root)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("class not named:") == 20
    assert "30  class not named" in printed
    main([str(root), "--all"])
    assert capsys.readouterr().out.count("class not named:") == 30


@pytest.mark.real
def test_real_roots(real_samples):
    """49 objects under 8 px in the COCO sample; the Talk2Car sample's contradicting sides are real annotations."""
    kinds = [finding.kind for finding in lint(real_samples / "coco")]
    assert kinds.count("tiny box") == 49
    findings = lint(real_samples / "talk2car")
    sides = [finding for finding in findings if finding.kind == "side"]
    assert 5 <= len(sides) <= 30  # of 150 commands with a side word: about 14 % contradict their box
    assert all("says left" in finding.what or "says right" in finding.what for finding in sides)
