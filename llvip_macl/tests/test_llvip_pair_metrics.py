"""The mmengine metrics: equal to their cores, with and without annotation files, over several processes."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from llvip_macl.evaluation.kaist_files import read_detections, read_truth
from llvip_macl.evaluation.kaist_mr import evaluate
from shared.errors import ConfigError, DataError, NonFiniteError

IMAGES = 6


@pytest.fixture(scope="module")
def metrics():
    """The module, imported once: it brings mmdet."""
    from llvip_macl.evaluation import pair_metrics

    return pair_metrics


def sample(index: int, *, extra: int = 0, labels: int = 1, perfect: bool = False) -> dict:
    """A KAIST-like image of 640x512 with some persons; predictions are moved copies and `extra` false ones."""
    rng = np.random.default_rng(index)
    count = index % 3 + 1
    corner = np.column_stack([rng.integers(20, 500, count), rng.integers(20, 300, count)]).astype(float)
    boxes = np.concatenate([corner, corner + np.array([40, 120])], axis=1)
    instances = [
        {
            "bbox": box.tolist(),
            "bbox_label": int(i % labels),
            "ignore_flag": int(i == 2),
            "occlusion": int(rng.integers(0, 3)),
        }
        for i, box in enumerate(boxes)
    ]
    predicted = np.concatenate(
        [boxes + (0 if perfect else rng.integers(-9, 10, boxes.shape)), rng.uniform(20, 400, (extra, 4))]
    )
    predicted[:, 2:] = np.maximum(predicted[:, 2:], predicted[:, :2] + 10)
    found = {
        "bboxes": torch.from_numpy(predicted),
        "scores": torch.from_numpy(rng.permutation(len(predicted)) / 50 + index / 1000),
        "labels": torch.arange(len(predicted)) % labels,
    }  # fmt: skip
    name = f"images/set{6 + 3 * (index % 2):02d}/V000/visible/I{index:05d}.png"
    return {"img_id": index, "img_path": name, "ori_shape": (512, 640), "scale_factor": (0.5, 0.5),
            "instances": instances, "pred_instances": found}  # fmt: skip


def score(metric, samples, classes=("person",), size=None) -> dict:
    metric.dataset_meta = {"classes": classes}
    metric.process(None, samples)
    return metric.evaluate(size or len(samples))


def annotation_file(folder: Path, samples) -> Path:
    """The samples' boxes as a KAIST_annotation.json, its images in another order."""
    data = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for s in samples[::-1]:
        frame = s["img_path"].removeprefix("images/").replace("visible/", "").removesuffix(".png")
        data["images"].append({"id": s["img_id"], "im_name": frame, "height": 512, "width": 640})
        for entry in s["instances"]:
            x, y, r, b = entry["bbox"]
            data["annotations"].append({
                "image_id": s["img_id"], "category_id": 1, "bbox": [x, y, r - x, b - y],
                "occlusion": entry["occlusion"], "ignore": entry["ignore_flag"],
            })  # fmt: skip
    path = folder / "truth.json"
    path.write_text(json.dumps(data))
    return path


# --- miss rate ---


@pytest.mark.parametrize("protocol", ["matlab", "mlpd_script"])
def test_the_metric_is_the_command_on_the_same_detections(metrics, tmp_path, protocol):
    samples = [sample(i, extra=3) for i in range(IMAGES)]
    txt = tmp_path / "result.txt"
    truth = read_truth(annotation_file(tmp_path, samples))
    for ann_file in (None, str(tmp_path / "truth.json")):
        metric = metrics.KaistMissRate(ann_file, protocol, result_txt=str(txt))
        found = score(metric, samples)
        command = evaluate(truth, read_detections(txt, truth), protocol=protocol)
        expected = {f"kaist/MR_{name}": result.percent for name, result in command.items() if result.persons}
        assert found == pytest.approx(expected, abs=1e-3)
        assert len(expected) >= 3 and metric.last["reasonable_all"].persons == command["reasonable_all"].persons > 0


def test_subsets_without_a_person_are_left_out_and_the_others_named(metrics):
    found = score(
        metrics.KaistMissRate(subsets=["reasonable", "far", "near_night"]), [sample(i) for i in range(IMAGES)]
    )
    assert set(found) == {"kaist/MR_reasonable", "kaist/MR_near_night"}


def test_perfect_predictions_miss_no_one_and_none_miss_all(metrics):
    samples = [sample(i, perfect=True) for i in range(IMAGES)]
    assert score(metrics.KaistMissRate(), samples)["kaist/MR_reasonable_all"] < 1e-6
    empty = {"bboxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}
    silent = [{**s, "pred_instances": empty} for s in samples]
    assert score(metrics.KaistMissRate(), silent)["kaist/MR_reasonable_all"] == pytest.approx(100)
    assert score(metrics.PairCocoMetric(), silent)["coco/bbox_mAP"] == 0


def test_small_images_are_judged_at_512_lines(metrics):
    def shrunk(s: dict) -> dict:
        found = {**s["pred_instances"], "bboxes": s["pred_instances"]["bboxes"] / 4}
        instances = [{**entry, "bbox": [side / 4 for side in entry["bbox"]]} for entry in s["instances"]]
        return {**s, "ori_shape": (128, 160), "instances": instances, "pred_instances": found}

    samples = [sample(i, extra=3) for i in range(IMAGES)]
    assert score(metrics.KaistMissRate(), [shrunk(s) for s in samples]) == pytest.approx(
        score(metrics.KaistMissRate(), samples)
    )
    unscaled = score(metrics.KaistMissRate(height_scale=1.0), [shrunk(s) for s in samples])
    assert "kaist/MR_reasonable_all" not in unscaled  # 30 px are no reasonable height


# --- AP ---


def test_ap_is_that_of_pycocotools_on_the_same_boxes(metrics, tmp_path):
    samples = [sample(i, extra=4) for i in range(IMAGES)]
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    data = json.loads(annotation_file(tmp_path, samples).read_text())
    for number, entry in enumerate(data["annotations"], start=1):
        entry |= {"id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": entry["ignore"]}
    data["info"] = {}
    (tmp_path / "coco.json").write_text(json.dumps(data))
    results = [
        {"image_id": s["img_id"], "category_id": 1, "bbox": [x, y, r - x, b - y], "score": value}
        for s in samples
        for (x, y, r, b), value in zip(
            s["pred_instances"]["bboxes"].tolist(), s["pred_instances"]["scores"].tolist(), strict=True
        )
    ]
    coco = COCO(str(tmp_path / "coco.json"))
    judge = COCOeval(coco, coco.loadRes(results), "bbox")
    judge.evaluate(), judge.accumulate(), judge.summarize()
    for ann_file in (None, str(annotation_file(tmp_path, samples))):
        found = score(metrics.PairCocoMetric(ann_file), samples)
        names = ("mAP", "mAP_50", "mAP_75", "mAP_m", "AR@100")
        assert [found[f"coco/bbox_{n}"] for n in names] == pytest.approx(judge.stats[[0, 1, 2, 4, 8]].tolist())
    assert 0.05 < found["coco/bbox_mAP"] < 0.95 and "coco/bbox_mAP_s" not in found  # no small person: no value


def test_perfect_predictions_have_ap_one_and_ignored_boxes_do_not_count(metrics):
    samples = [sample(i, perfect=True) for i in range(IMAGES)]
    for s in samples:  # the ignored person is not predicted: as a real one it would cost recall
        keep = [i for i, entry in enumerate(s["instances"]) if not entry["ignore_flag"]]
        s["pred_instances"] = {name: values[keep] for name, values in s["pred_instances"].items()}
    assert score(metrics.PairCocoMetric(), samples)["coco/bbox_mAP"] == pytest.approx(1)
    for s in samples:
        s["instances"] = [{**entry, "ignore_flag": 0} for entry in s["instances"]]
    assert score(metrics.PairCocoMetric(), samples)["coco/bbox_mAP"] < 0.9


def test_several_classes_have_their_own_ap_and_the_miss_rate_looks_at_persons(metrics):
    classes = ("car", "person")
    samples = [sample(i, labels=2, perfect=True) for i in range(IMAGES)]
    for s in samples:  # cars are found, persons are not
        s["pred_instances"]["labels"] = torch.zeros(len(s["pred_instances"]["labels"]), dtype=torch.long)
    found = score(metrics.PairCocoMetric(), samples, classes)
    assert found["coco/bbox_mAP_person"] == 0 < found["coco/bbox_mAP_car"]
    assert score(metrics.KaistMissRate(), samples, classes)["kaist/MR_reasonable_all"] == pytest.approx(100)
    with pytest.raises(ConfigError, match="the class `person`; the data set has car, dog"):
        score(metrics.KaistMissRate(), samples, ("car", "dog"))


# --- several processes, other sources, faults ---


@pytest.mark.parametrize("name", ["KaistMissRate", "PairCocoMetric"])
def test_padding_of_several_processes_counts_once(metrics, name):
    samples = [sample(i, extra=3) for i in range(IMAGES)]
    shares = [samples[0::4], samples[1::4], samples[2::4], samples[3::4]]
    shares[2], shares[3] = [*shares[2], samples[0]], [*shares[3], samples[1]]  # as samplers fill up
    gathered = [s for row in zip(*shares, strict=True) for s in row]
    assert score(getattr(metrics, name)(), gathered) == score(getattr(metrics, name)(), samples)
    judged = metrics.judged(samples[0])
    assert vars(copy.deepcopy(judged))["name"] == judged.name


def test_packed_instances_serve_where_annotations_are_not_carried(metrics):
    samples = [sample(i, extra=2) for i in range(IMAGES)]
    packed = []
    for s in samples:
        parts = {}
        for key, flag in (("gt_instances", 0), ("ignored_instances", 1)):
            own = [entry for entry in s["instances"] if entry["ignore_flag"] == flag]
            parts[key] = {
                "bboxes": torch.tensor([entry["bbox"] for entry in own], dtype=torch.float64).reshape(-1, 4),
                "labels": torch.tensor([entry["bbox_label"] for entry in own], dtype=torch.long),
                "occlusions": torch.tensor([entry["occlusion"] for entry in own], dtype=torch.long),
            }
        packed.append({key: value for key, value in s.items() if key != "instances"} | parts)
    for name in ("KaistMissRate", "PairCocoMetric"):
        assert score(getattr(metrics, name)(), packed) == score(getattr(metrics, name)(), samples)


def test_without_any_ground_truth_the_remedy_is_named(metrics):
    bare = {key: value for key, value in sample(0).items() if key != "instances"}
    with pytest.raises(DataError, match="give the metric an `ann_file`"):
        score(metrics.PairCocoMetric(), [bare])


def test_an_annotation_file_of_other_images_is_refused(metrics, tmp_path):
    path = str(annotation_file(tmp_path, [sample(i) for i in range(3)]))
    with pytest.raises(DataError, match="is not in"):
        score(metrics.KaistMissRate(path), [sample(i) for i in range(4)])
    with pytest.raises(DataError, match="has 3 images, 2 of them were predicted"):
        score(metrics.KaistMissRate(path), [sample(i) for i in range(2)])
    with pytest.raises(ConfigError, match="judged for persons only"):
        score(metrics.PairCocoMetric(path), [sample(i) for i in range(3)], ("person", "car"))


def test_bad_settings_and_bad_predictions_are_errors(metrics):
    with pytest.raises(ConfigError, match="no protocol 'caltech'"):
        metrics.KaistMissRate(protocol="caltech")
    with pytest.raises(ConfigError, match="no subset 'close'"):
        metrics.KaistMissRate(subsets=["close"])
    broken = sample(1)
    broken["pred_instances"]["scores"][0] = float("nan")
    with pytest.raises(NonFiniteError, match="I00001"):
        metrics.KaistMissRate().process(None, [broken])
    with pytest.raises(DataError, match="validation set is empty"):
        score(metrics.PairCocoMetric(), [], size=1)


@pytest.mark.fault(22)
def test_two_processes_that_do_not_divide_evenly_give_the_single_ones_numbers(metrics, tmp_path):
    samples = [sample(i, extra=3) for i in range(IMAGES - 1)]
    alone = {**score(metrics.KaistMissRate(), samples), **score(metrics.PairCocoMetric(), samples)}
    context = torch.multiprocessing.get_context("fork")
    ranks = [context.Process(target=evaluate_share, args=(metrics, samples, rank, tmp_path)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == alone


def evaluate_share(metrics, samples: list[dict], rank: int, folder: Path) -> None:
    """One process of two: every other sample, the last share filled up with the first sample."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    share = [*samples, samples[0]][rank::2]
    found = {}
    for metric in (
        metrics.KaistMissRate(collect_dir=str(folder / "a")),
        metrics.PairCocoMetric(collect_dir=str(folder / "b")),
    ):
        found |= score(metric, share, size=len(samples))
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_both_stand_in_mmdets_registry(metrics):
    from mmdet.registry import METRICS

    for name in ("KaistMissRate", "PairCocoMetric"):
        assert METRICS.module_dict[name] is getattr(metrics, name)


@pytest.mark.real
def test_real_detections_through_the_metric_give_the_published_digits(metrics, real_samples):
    kaist = real_samples / "kaist_eval"
    truth = read_truth(kaist / "KAIST_annotation.json")
    detections = read_detections(kaist / "MLPD_result.txt", truth)
    samples = []
    for place, name in enumerate(truth.names):
        rows = detections.image_index == place
        x, y, w, h = detections.boxes_xywh_px[rows].T
        found = {
            "bboxes": np.column_stack([x, y, x + w, y + h]),
            "scores": detections.scores[rows],
            "labels": np.zeros(rows.sum()),
        }
        samples.append({"img_id": place, "img_path": name, "ori_shape": (512, 640), "pred_instances": found})
    found = score(metrics.KaistMissRate(str(kaist / "KAIST_annotation.json")), samples)
    assert [round(found[f"kaist/MR_reasonable_{time}"], 3) for time in ("all", "day", "night")] == [7.576, 7.950, 6.948]
