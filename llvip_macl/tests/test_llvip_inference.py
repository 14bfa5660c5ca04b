"""Detection on single pairs: which files belong together, the same boxes as a data set gives, pictures, JSON."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from llvip_macl.inference import PairDetections, pairs_of
from llvip_macl.pair_command import latency_line
from llvip_macl.pictures import GREEN, ORANGE, alignment_figure, arms_figure, pair_picture, read_image, sheet
from shared.errors import CheckpointError, DataError

CONFIG = Path(__file__).parents[1] / "configs/embedded/stage2.py"
REAL = ["test_dataloader.dataset.pipeline.1.scale=(320,256)"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from llvip_macl.world import ensure_world

    return ensure_world(tmp_path_factory.mktemp("worlds"), layout="kaist", pairs=(2, 3), size_hw=(96, 128), workers=0)


@pytest.fixture(scope="module")
def detector():
    """The small detector with random weights."""
    from llvip_macl.inference import PairInferencer

    return PairInferencer(CONFIG, None, options=["model.test_cfg.rcnn.score_thr=0.0"])


def test_set(world):
    from llvip_macl.data.kaist import KAISTDataset
    from llvip_macl.runtime.preparation import read_config

    pipeline = read_config(str(CONFIG)).test_dataloader.dataset.pipeline
    return KAISTDataset(data_root=str(world), ann_file="imageSets/test-all-20.txt", test_mode=True, pipeline=pipeline)


test_set.__test__ = False  # a helper


def found_in(boxes=((1, 2, 11, 22), (5, 6, 7, 8)), scores=(0.9, 0.2), **changes):
    fields = {"visible": Path("a.jpg"), "infrared": Path("b.jpg"), "size_hw": (48, 64), "classes": ("person",),
              "boxes_xyxy_px": np.array(boxes, np.float32).reshape(-1, 4), "scores": np.array(scores, np.float32),
              "labels": np.zeros(len(scores), int), "latency_ms": {"total": 5.0}}  # fmt: skip
    return PairDetections(**{**fields, **changes})


# --- which files belong together ---


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_files_of_one_name_are_a_pair_whatever_the_half_is_called(tmp_path):
    visible = touch(tmp_path / "v", "a.jpg", "b_visible.png", "set06_V000_I00019_visible.jpg", "notes.txt")
    infrared = touch(tmp_path / "i", "set06_V000_I00019_lwir.jpg", "b_lwir.png", "a.png")
    names = [(one.name, other.name) for one, other in pairs_of(visible, infrared)]
    assert names == [("a.jpg", "a.png"), ("b_visible.png", "b_lwir.png"),
                     ("set06_V000_I00019_visible.jpg", "set06_V000_I00019_lwir.jpg")]  # fmt: skip


def test_two_files_are_a_pair_whatever_their_names(tmp_path):
    touch(tmp_path, "x.jpg", "y.jpg")
    assert pairs_of(tmp_path / "x.jpg", tmp_path / "y.jpg") == [(tmp_path / "x.jpg", tmp_path / "y.jpg")]


@pytest.mark.parametrize("half", ["v", "i"])
def test_a_missing_half_is_an_error_that_names_the_file(tmp_path, half):
    touch(tmp_path / "v", "a.jpg")
    touch(tmp_path / "i", "a.jpg")
    touch(tmp_path / half, "lonely.jpg")
    with pytest.raises(DataError, match=rf"{half}/lonely\.jpg"):
        pairs_of(tmp_path / "v", tmp_path / "i")


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [("v", "none", "none does not exist"), ("v", "i/a.jpg", "one is a folder"), ("v", "v", "both halves"),
     ("v", "empty", "no image"), ("twice", "v", "one name")],
)  # fmt: skip
def test_what_cannot_be_paired_is_refused(tmp_path, one, other, message):
    for folder in ("v", "i", "empty"):
        touch(tmp_path / folder, *([] if folder == "empty" else ["a.jpg"]))
    touch(tmp_path / "twice", "a.jpg", "a_vis.jpg")
    with pytest.raises(DataError, match=message):
        pairs_of(tmp_path / one, tmp_path / other)


# --- detections ---


def test_json_has_coco_boxes_and_a_threshold_keeps_what_is_above_it():
    found = found_in().above(0.5)
    (one,) = found.to_json()["detections"]
    assert one["bbox"] == [1, 2, 10, 20] and one["label"] == "person" and one["score"] == pytest.approx(0.9)
    assert len(found_in().above(0.1).scores) == 2 and not found_in(boxes=(), scores=()).to_json()["detections"]


def test_the_latency_leaves_the_first_pair_out():
    slow, quick = found_in(latency_ms={"total": 900.0}), found_in(latency_ms={"total": 10.0})
    assert "total 10.0 ms" in latency_line([slow, quick]) and "total 900.0 ms" in latency_line([slow])


def test_a_pair_of_files_gives_the_boxes_of_the_data_set(world, detector):
    from mmengine.dataset import pseudo_collate

    dataset = test_set(world)
    info = dataset.get_data_info(1)
    found = detector(info["img_path"], info["img_ir_path"])
    with torch.no_grad():
        data = detector.model.data_preprocessor(pseudo_collate([dataset[1]]), False)
        (sample,) = detector.model(**data, mode="predict")
    assert len(found.scores) > 0
    assert np.array_equal(found.boxes_xyxy_px, sample.pred_instances.bboxes.numpy())
    assert np.array_equal(found.scores, sample.pred_instances.scores.numpy())
    assert found.size_hw == (96, 128) and found.latency_ms["total"] >= found.latency_ms["model"] > 0


def test_both_halves_matter(world, detector):
    info = test_set(world).get_data_info(0)
    paired = detector(info["img_path"], info["img_ir_path"]).scores
    for pair in ((info["img_path"], info["img_path"]), (info["img_ir_path"], info["img_ir_path"])):
        assert not np.array_equal(paired, detector(*pair).scores)


def test_a_missing_or_other_half_is_an_error_and_never_one_modality(world, detector, tmp_path):
    info = test_set(world).get_data_info(0)
    with pytest.raises(DataError, match="infrared half"):
        detector(info["img_path"], tmp_path / "none.jpg")
    cv2.imwrite(str(tmp_path / "small.jpg"), np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(DataError):
        detector(info["img_path"], tmp_path / "small.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError):
        detector(info["img_path"], tmp_path / "broken.jpg")


@pytest.mark.fault(10)
def test_weights_that_do_not_fit_are_refused_and_good_ones_are_loaded(detector, tmp_path):
    from llvip_macl.inference import PairInferencer

    state = {name: value + 1 if value.is_floating_point() else value for name, value in
             detector.model.state_dict().items()}  # fmt: skip
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "all.pth")
    loaded = PairInferencer(CONFIG, tmp_path / "all.pth")
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())
    torch.save({"state_dict": dict(list(state.items())[:5])}, tmp_path / "few.pth")
    with pytest.raises(CheckpointError):
        PairInferencer(CONFIG, tmp_path / "few.pth")


def test_the_command_writes_pictures_and_json(world, detector, tmp_path, capsys):
    from llvip_macl.pair_command import main

    torch.save({"state_dict": detector.model.state_dict()}, tmp_path / "w.pth")
    video = world / "images/set06/V000"
    argv = [str(video / "visible"), str(video / "lwir"), "--checkpoint", str(tmp_path / "w.pth"), "--out",
            str(tmp_path / "out"), "--score", "0"]  # fmt: skip
    assert main(argv) == 0
    listed = json.loads((tmp_path / "out/detections.json").read_text())
    pictures = list((tmp_path / "out").glob("*.png"))
    assert len(listed) == len(pictures) == len(list((video / "visible").iterdir()))
    assert "ms" in capsys.readouterr().out
    argv[1] = str(tmp_path / "nowhere")
    assert main(argv) == 2


# --- pictures ---


def test_a_picture_shows_both_halves_boxes_and_annotations():
    grey = np.full((48, 64, 3), 100, np.uint8)
    box = np.array([[10.0, 10, 30, 40]])
    picture = pair_picture(grey, grey, box, np.array([0.8]), truth=box + 2, caption="name", mark="drawn")
    halves = picture[:, : picture.shape[1] // 2 - 2], picture[:, picture.shape[1] // 2 + 2 :]
    for half in halves:
        assert (half == ORANGE).all(-1).any() and (half == GREEN).all(-1).any()
    plain = pair_picture(grey, grey, box[:0], np.zeros(0))
    assert not (plain == ORANGE).all(-1).any()
    with pytest.raises(DataError, match="one size"):
        pair_picture(grey, grey[:40], box, np.array([0.8]))


def test_a_sheet_holds_every_picture_and_nothing_is_cut():
    pictures = [np.full((20 + 5 * i, 30, 3), 40 * i, np.uint8) for i in range(3)]
    made = sheet(pictures, columns=2)
    assert made.shape == (2 * (30 + 4), 2 * (30 + 4), 3)
    with pytest.raises(ValueError, match="no picture"):
        sheet([])


def test_figures_name_their_mark_and_need_something_to_draw():
    from llvip_macl.evaluation.alignment import Measure

    report = {"retrieval_at1_vis_to_ir": Measure(0.5, 0.4, 0.6, 0.1), "modality_mixing": Measure(0.9, chance=1.0)}
    figure = alignment_figure({"trained": report}, "title", "drawn scenes")
    assert figure._suptitle.get_text() == "drawn scenes" and len(figure.axes[0].get_yticks()) == 2
    with pytest.raises(ValueError, match="no alignment"):
        alignment_figure({})
    bars = arms_figure({"a": [1.0, 2.0], "b": [3.0]}, {"a": (0.5, 2.5), "b": (np.nan, np.nan)}, "AP", "drawn", 0.1)
    assert bars._suptitle.get_text() == "drawn"


# --- real pairs ---


@pytest.mark.real
@pytest.mark.parametrize(
    ("visible", "infrared"),
    [("LLVIP/visible/train/010001.jpg", "LLVIP/infrared/train/010001.jpg"),
     ("KAIST/images/set06/V001/visible/I00459.png", "KAIST/images/set06/V001/lwir/I00459.png"),
     ("RoadScene_unlabelled/vi/ROAD_040.jpg", "RoadScene_unlabelled/ir/ROAD_040.jpg")],
)  # fmt: skip
def test_real_pairs_run_through_inference_and_pictures(real_samples, visible, infrared, tmp_path):
    from llvip_macl.inference import PairInferencer
    from llvip_macl.pair_command import draw

    detector = PairInferencer(CONFIG, None, options=[*REAL, "model.test_cfg.rcnn.score_thr=0.0"])
    halves = real_samples / "rgbt" / visible, real_samples / "rgbt" / infrared
    found = detector(*halves)
    height, width = found.size_hw
    assert found.size_hw == read_image(halves[0]).shape[:2] and len(found.scores)
    assert (found.boxes_xyxy_px >= 0).all() and (found.boxes_xyxy_px <= [width, height, width, height]).all()
    picture = read_image(draw(found, tmp_path))
    assert (picture == ORANGE).all(-1).any()


@pytest.mark.real
def test_a_training_step_on_real_pairs_moves_the_weights(real_samples):
    from mmengine.dataset import pseudo_collate

    from llvip_macl.data.kaist import KAISTDataset
    from llvip_macl.data.llvip import LLVIPDataset
    from llvip_macl.data.randomness import SampleKey
    from llvip_macl.inference import build_model, model_config
    from llvip_macl.self_checks import flows, step

    cfg = model_config(str(CONFIG))
    pipeline = [dict(one) for one in cfg.train_dataloader.dataset.pipeline]
    pipeline[2]["scale"] = (320, 256)
    rgbt = real_samples / "rgbt"
    llvip = LLVIPDataset(data_root=str(rgbt / "LLVIP"), pipeline=pipeline)
    kaist = KAISTDataset(data_root=str(rgbt / "KAIST"), ann_file="imageSets/test-sample.txt", pipeline=pipeline)
    model = build_model(cfg)
    total, values = step(model, pseudo_collate([llvip[SampleKey(0, 0, 0)], kaist[SampleKey(0, 0, 0)]]))
    assert torch.isfinite(total) and values["macl_rows"] > 0
    assert not [name for name, flow in flows(model).items() if flow.fault]
    before = model.backbone.conv1.weight.clone()
    torch.optim.SGD(model.parameters(), 0.01).step()
    assert not torch.equal(before, model.backbone.conv1.weight)
