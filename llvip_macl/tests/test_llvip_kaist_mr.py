"""The miss-rate command: published digits, files and their faults, a process without torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llvip_macl.evaluation.kaist_files import (
    DAY,
    NIGHT,
    UNKNOWN,
    read_detections,
    read_truth,
    time_of,
    write_result_txt,
)
from llvip_macl.evaluation.kaist_mr import REFERENCES_FPPI, evaluate, main, recall_at
from shared.errors import DataError

RESULTS = ("MBNet_result.txt", "MLPD_result.txt", "MLPD_result.json", "IATDNN-IAMSS_result.txt")
PERSONS = {  # all / day / night of the improved test annotations
    "reasonable": (1455, 989, 466), "near": (201, 105, 96), "medium": (1683, 1274, 409), "far": (807, 526, 281),
    "occ_none": (2612, 1844, 768), "occ_partial": (438, 283, 155), "occ_heavy": (226, 177, 49),
    "small": (1055, 809, 246), "heavy": (161, 128, 33), "all": (3276, 2304, 972),
}  # fmt: skip
WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "mmcv", "mmdet", "mmengine", "matplotlib", "sklearn"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from llvip_macl.evaluation.kaist_mr import main
sys.exit(main(sys.argv[1:]))
"""


def small_truth(**changes) -> dict:
    """Two images, three boxes: two persons that count, one to ignore."""
    boxes = [[100, 100, 40, 100], [300, 100, 40, 100], [200, 200, 30, 90]]
    data = {
        "images": [
            {"id": i, "im_name": f"set{6 + 3 * i:02d}/V000/I00019", "height": 512, "width": 640} for i in (0, 1)
        ],
        "annotations": [
            {"id": i, "image_id": i % 2, "category_id": 1, "bbox": box, "occlusion": 0, "ignore": int(i == 2)}
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 0, "name": "__ignore__"}, {"id": 1, "name": "person"}],
    }
    return {**data, **changes}


@pytest.fixture
def truth_path(tmp_path: Path) -> Path:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(small_truth()))
    return path


# --- published digits ---


@pytest.fixture(scope="module")
def kaist(real_samples: Path) -> Path:
    return real_samples / "kaist_eval"


@pytest.mark.real
@pytest.mark.parametrize("name", RESULTS)
def test_every_real_file_has_its_expected_miss_rates(kaist, name):
    expected = json.loads((kaist / "expected_mr.json").read_text())[name]
    truth = read_truth(kaist / "KAIST_annotation.json")
    detections = read_detections(kaist / name, truth)
    assert (len(detections.scores), detections.images) == (
        expected["n_detections"],
        expected["n_images_with_detections"],
    )
    for protocol, key in (("matlab", "matlab_protocol"), ("mlpd_script", "mlpd_script")):
        found = {
            name: round(result.percent, 3) for name, result in evaluate(truth, detections, protocol=protocol).items()
        }
        names = {k: f"reasonable_{k}" if k in ("all", "day", "night") else k for k in expected[key]}
        assert found == {names[k]: value for k, value in expected[key].items()}


@pytest.mark.real
def test_the_real_curve_has_the_published_points(kaist):
    truth = read_truth(kaist / "KAIST_annotation.json")
    found = evaluate(truth, read_detections(kaist / RESULTS[0], truth), ["reasonable"])["reasonable"]
    published = [0.7780, 0.8296, 0.8557, 0.8845, 0.9141, 0.9313, 0.9464, 0.9677, 0.9759]
    assert recall_at(found.fppi, found.recall, "matlab").round(4).tolist() == published
    assert (round(found.recall[-1] * found.persons), round(found.fppi[-1] * found.images)) == (1432, 7893)


@pytest.mark.real
def test_real_subsets_have_the_published_numbers_of_persons_and_the_order_of_days(kaist):
    truth = read_truth(kaist / "KAIST_annotation.json")
    assert (truth.times == np.where(truth.image_ids <= 1454, DAY, NIGHT)).all()
    names = [f"{rule}_{time}" for rule in PERSONS for time in ("all", "day", "night")]
    found = evaluate(truth, read_detections(kaist / RESULTS[1], truth), names)
    assert {r: tuple(found[f"{r}_{t}"].persons for t in ("all", "day", "night")) for r in PERSONS} == PERSONS
    assert "improved (BMVC 2016)" in truth.version


# --- without torch ---


def test_the_command_runs_where_torch_and_mmdet_cannot_be_imported(truth_path, tmp_path):
    results = tmp_path / "result.txt"
    results.write_text("1,100,100,40,100,0.9\n")
    command = [sys.executable, "-c", WITHOUT, str(truth_path), str(results), "--protocol", "both"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "matlab" in done.stdout and "mlpd_script" in done.stdout and "reasonable_night" in done.stdout


# --- the command ---


def test_the_command_names_protocol_subset_annotations_and_counts(truth_path, tmp_path, capsys):
    results = tmp_path / "result.txt"
    results.write_text("1,100,100,40,100,0.9\n\n2,300,100,40,100,0.8\n")
    assert main([str(truth_path), str(results)]) == 0
    text = capsys.readouterr().out
    assert "version not named, sha256" in text and "2 images, 2 persons, 1 boxes to ignore" in text
    assert "protocol     matlab" in text and "2 detections in 2 images" in text
    assert [line.split() for line in text.splitlines() if line.startswith("reasonable_all")] == [
        ["reasonable_all", "0.000", "2", "2"]
    ]
    assert [line.split()[1] for line in text.splitlines() if line.startswith("occ_heavy")] == ["-"]


def test_values_and_curves_can_be_written(truth_path, tmp_path, capsys):
    results, out, picture = tmp_path / "result.txt", tmp_path / "out.json", tmp_path / "curves" / "out.png"
    results.write_text("1,100,100,40,100,0.9\n")
    subsets = ["--subset", "occ_none", "--subset", "near_night"]
    assert main([str(truth_path), str(results), *subsets, "--json", str(out), "--picture", str(picture)]) == 0
    found = json.loads(out.read_text())[str(results)]["matlab"]
    assert found["near_night"] == {"miss_rate_percent": None, "images": 1, "persons": 0}
    assert found["occ_none"]["miss_rate_percent"] == pytest.approx(50)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_unknown_subset_is_refused_before_any_reading(tmp_path, capsys):
    assert main([str(tmp_path / "none.json"), str(tmp_path / "none.txt"), "--subset", "nearby"]) == 2
    assert "no subset 'nearby'; there are reasonable, near" in capsys.readouterr().err


# --- files ---


def test_txt_and_json_of_the_same_detections_agree(truth_path, tmp_path):
    truth = read_truth(truth_path)
    txt, coco = tmp_path / "result.txt", tmp_path / "result.json"
    txt.write_text("1,100.5,100,40,100,-0.9\n2,300,100,40,100,3.5\n")
    coco.write_text(json.dumps([
        {"image_id": 0, "category_id": 1.0, "bbox": [100.5, 100, 40, 100], "score": -0.9},
        {"image_id": 1, "category_id": 1, "bbox": [300, 100, 40, 100], "score": 3.5},
    ]))  # fmt: skip
    for one, other in zip(
        vars(read_detections(txt, truth)).values(), vars(read_detections(coco, truth)).values(), strict=True
    ):
        assert (one == other).all()


def test_a_written_txt_reads_back(truth_path, tmp_path):
    truth, path = read_truth(truth_path), tmp_path / "result.txt"
    path.write_text("1,100.25,100,40,100,0.5\n1,7,8,40,100,0.75\n2,300,100,40,100,0.25\n")
    detections = read_detections(path, truth)
    write_result_txt(path, truth.image_ids, detections)
    again = read_detections(path, truth)
    assert path.read_text().splitlines()[0].startswith("1,7.0000")
    assert again.scores.tolist() == [0.75, 0.5, 0.25] and again.image_index.tolist() == [0, 0, 1]


def test_an_empty_result_file_is_no_detection(truth_path, tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("\n")
    assert len(read_detections(path, read_truth(truth_path)).scores) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2,x,1,2,3,0.5", "line 2: '2,x,1,2,3,0.5' has a part that is no number; a line reads image,x,y,w,h,score"),
        ("2,1,2,3,0.5", "line 2: '2,1,2,3,0.5' has 5 values, not 6"),
        ("0,1,2,3,4,0.5", "names image 0, but a txt counts images from 1"),
        ("3,1,2,3,4,0.5", "names image 3; the ground truth has 2 images, in a txt numbers 1 to 2"),
        ("1.5,1,2,3,4,0.5", "names image 1.5"),
        ("1,1,2,-3,4,0.5", "a negative size; mend or remove the line"),
        ("1,1,2,3,4,nan", "not finite"),
        ("# a comment", "no number"),
    ],
)
def test_a_bad_line_is_named_with_file_line_value_and_remedy(truth_path, tmp_path, line, message):
    path = tmp_path / "result.txt"
    path.write_text(f"1,1,2,3,4,0.5\n{line}\n")
    with pytest.raises(DataError) as raised:
        read_detections(path, read_truth(truth_path))
    assert str(path) in str(raised.value) and message in str(raised.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image_id": 2, "bbox": [1, 2, 3, 4], "score": 1}, "ids 0 to 1: were they counted from 1?"),
        ({"image_id": 9, "bbox": [1, 2, 3, 4], "score": 1}, "detections[1] names image_id 9"),
        ({"image_id": 1, "bbox": [1, 2, 3], "score": 1}, "detections[1] has no usable `bbox`"),
        ({"image_id": 1, "bbox": [1, 2, 3, 4]}, "detections[1] has no usable `score`"),
        ({"image_id": 1, "bbox": [1, 2, 3, 4], "score": float("nan")}, "detections[1] has no usable `score`"),
        ({"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1, "category_id": 0}, "has category_id 0"),
        ("text", "detections[1]"),
    ],
)
def test_a_bad_record_is_named(truth_path, tmp_path, record, message):
    path = tmp_path / "result.json"
    path.write_text(json.dumps([{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}, record]))
    with pytest.raises(DataError) as raised:
        read_detections(path, read_truth(truth_path))
    assert message in str(raised.value)


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "0 images"),
        ({"images": [{"id": 0}, {"id": 0}]}, "2 images with 1 different ids"),
        ({"annotations": [{"image_id": 5, "bbox": [1, 2, 3, 4]}]}, "annotations[0] names image_id 5"),
        ({"annotations": [{"image_id": 0, "bbox": [1, 2, -3, 4]}]}, "annotations[0] has no usable `bbox`"),
        ({"categories": [{"id": 1, "name": "car"}]}, "none of its categories ['car'] is `person`"),
    ],
)
def test_bad_ground_truth_is_named(tmp_path, change, message):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(small_truth(**change)))
    with pytest.raises(DataError) as raised:
        read_truth(path)
    assert message in str(raised.value)


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "is not JSON"), (b"[]", "is no ground truth"), (None, "cannot read")]
)
def test_a_file_that_is_no_ground_truth_is_refused(tmp_path, content, message):
    path = tmp_path / "truth.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_truth(path)


@pytest.mark.parametrize(
    ("info", "version"),
    [
        ({"dataset": "embedded synthetic world"}, "embedded synthetic world"),
        ({"version": "1.2", "dataset": "X"}, "1.2"),
        ({"label_version": "paired", "version": "1.2"}, "paired"),
        ({}, "version not named"),
    ],
)
def test_annotations_are_named_by_what_the_file_says(tmp_path, info, version):
    (tmp_path / "truth.json").write_text(json.dumps(small_truth(info=info)))
    assert read_truth(tmp_path / "truth.json").version.startswith(f"{version}, sha256 ")


def test_boxes_of_other_categories_are_ignored(tmp_path):
    data = small_truth()
    data["categories"].append({"id": 2, "name": "cyclist"})
    data["annotations"][0]["category_id"] = 2
    (tmp_path / "truth.json").write_text(json.dumps(data))
    assert read_truth(tmp_path / "truth.json").ignore.tolist() == [True, False, True]


def test_day_and_night_follow_the_set():
    answers = [time_of(f"set{number:02d}/V000/I00019") for number in range(12)]
    assert answers == [DAY] * 3 + [NIGHT] * 3 + [DAY] * 3 + [NIGHT] * 3
    assert time_of("set12/V000/I00019") == time_of("010001.jpg") == UNKNOWN


def test_references_are_the_published_ones():
    assert REFERENCES_FPPI["matlab"].round(4).tolist() == REFERENCES_FPPI["mlpd_script"].tolist()
    assert REFERENCES_FPPI["matlab"][0] == 0.01 and REFERENCES_FPPI["matlab"][-1] == 1
