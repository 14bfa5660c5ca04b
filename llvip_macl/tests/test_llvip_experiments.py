"""The comparison: scores under weights against the evaluators, intervals, plans, records, words, and the page."""

import json
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from llvip_macl.evaluation.kaist_files import Detections, Truth
from llvip_macl.evaluation.kaist_mr import evaluate
from llvip_macl.experiment_plan import DEFAULT_PLAN, QUICK_PLAN, Piece, read_plan
from llvip_macl.experiment_report import Findings, in_words, results, scene_of, sentences, write_results
from llvip_macl.experiment_scores import (
    contrast_nats,
    difference,
    found_first,
    matched,
    scene_weights,
    summary,
)
from llvip_macl.experiments import Study, digest, run
from shared.errors import ConfigError, UserError

IMAGES, SCENES = 12, 4


def truth_of(images=range(IMAGES), seed=0):
    """Persons of 60 to 120 px in 512 lines, some to ignore; images of one scene follow each other."""
    rng = np.random.default_rng(seed)
    per_image = rng.integers(0, 5, IMAGES)
    boxes = [np.column_stack([rng.uniform(20, 500, n), rng.uniform(20, 300, n), rng.uniform(25, 60, n),
                              rng.uniform(40, 120, n)]) for n in per_image]  # fmt: skip
    ignore = [rng.random(n) < 0.2 for n in per_image]
    images = list(images)
    return Truth(
        image_ids=np.arange(len(images)),
        names=tuple(f"images/set{6 + i // 3:02d}/V000/visible/I{k:05d}.jpg" for k, i in enumerate(images)),
        sizes_hw=np.full((len(images), 2), (512, 640)),
        times=np.zeros(len(images), np.int8),
        image_index=np.repeat(np.arange(len(images)), per_image[images]),
        boxes_xywh_px=np.concatenate([boxes[i] for i in images]),
        occlusions=np.zeros(int(per_image[images].sum()), np.int64),
        ignore=np.concatenate([ignore[i] for i in images]),
        version="test",
    )


def detections_of(images=range(IMAGES), seed=1, noise=4.0):
    """Each person found at about its place, with false ones beside; distinct scores."""
    rng = np.random.default_rng(seed)
    whole = truth_of()
    per_image = []
    for image in range(IMAGES):
        boxes = whole.boxes_xywh_px[whole.image_index == image]
        boxes = np.concatenate([boxes + rng.normal(0, noise, boxes.shape), [[10, 10, 40, 90], [300, 200, 40, 90]]])
        per_image.append((boxes, rng.random(len(boxes))))
    chosen = [per_image[i] for i in images]
    index = np.repeat(np.arange(len(chosen)), [len(one[1]) for one in chosen])
    return Detections(index, *(np.concatenate([one[part] for one in chosen]) for part in (0, 1)))


@pytest.fixture(scope="module")
def judged():
    return matched(truth_of(), detections_of())


# --- scores ---


def test_with_equal_weights_the_miss_rate_is_that_of_the_evaluator(judged):
    expected = evaluate(truth_of(), detections_of(), ["reasonable"])["reasonable"].percent
    assert judged.miss_rate() == pytest.approx(expected, abs=1e-9) and 5 < expected < 95
    assert judged.miss_rate(np.full(IMAGES, 3.0)) == pytest.approx(expected, abs=1e-9)


def test_with_equal_weights_ap_is_that_of_pycocotools(judged):
    from llvip_macl.evaluation.pair_metrics import coco_evaluation, coco_truth

    truth, found = truth_of(), detections_of()
    rows = np.column_stack([found.image_index, found.boxes_xywh_px, found.scores, np.zeros(len(found.scores))])
    stats, _, _ = coco_evaluation(coco_truth(truth, np.zeros(len(truth.ignore), int), ("person",)), rows)
    assert judged.ap() == pytest.approx(100 * stats[0], abs=1e-9) and judged.ap50() == pytest.approx(100 * stats[1])
    assert 5 < judged.ap() < 95


def test_a_weight_is_a_number_of_copies():
    weights = np.array([2.0, 0, 1, 1, 0, 2, 1, 1, 3, 0, 1, 1])
    copies = np.repeat(np.arange(IMAGES), weights.astype(int))
    weighed, repeated = matched(truth_of(), detections_of()), matched(truth_of(copies), detections_of(copies))
    assert weighed.ap50(weights) == pytest.approx(repeated.ap50(), abs=1.5)  # equal scores of copies share a step here
    assert weighed.miss_rate(weights) == pytest.approx(repeated.miss_rate(), abs=1.5)


def test_nothing_found_is_a_miss_rate_of_100_and_an_ap_of_0():
    nothing = matched(truth_of(), Detections(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0)))
    assert nothing.miss_rate() == pytest.approx(100) and nothing.ap() == 0
    assert math.isnan(nothing.miss_rate(np.zeros(IMAGES))) and math.isnan(nothing.ap50(np.zeros(IMAGES)))


def test_better_detections_score_better(judged):
    worse = matched(truth_of(), detections_of(noise=14.0))
    assert worse.ap() < judged.ap() and worse.miss_rate() >= judged.miss_rate()


def test_retrieval_and_contrast_stand_at_chance_for_what_knows_nothing():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 64))
    assert found_first(rows, rows).mean() == 1 and contrast_nats(rows, rows, 0.01) < 0.01
    assert found_first(np.ones((50, 4)), np.ones((50, 4))).mean() == 0  # equal scores count against
    assert contrast_nats(np.ones((50, 4)), np.ones((50, 4))) == pytest.approx(math.log(50))
    assert found_first(rows, rng.normal(size=(50, 64))).mean() < 0.15


# --- intervals ---


def test_scenes_are_drawn_whole_and_as_many_as_there_are():
    scenes = np.repeat(np.arange(SCENES), 3)
    weights = scene_weights(scenes, 50)
    assert weights.shape == (50, 12) and (weights.sum(1) == 12).all()
    assert all((weights[:, scenes == s] == weights[:, scenes == s][:, :1]).all() for s in range(SCENES))
    assert np.array_equal(weights, scene_weights(scenes, 50)) and not np.array_equal(
        weights, scene_weights(scenes, 50, 1)
    )


def test_an_arm_against_itself_differs_by_nothing_and_a_worse_one_by_something(judged):
    weights = scene_weights(np.repeat(np.arange(SCENES), 3), 200)
    score = lambda one, row: one.ap50(row)  # noqa: E731
    same = difference([judged, judged], [judged, judged], score, weights)
    assert same.mean == 0 and same.per_seed == (0, 0)
    worse = matched(truth_of(), detections_of(noise=14.0))
    shown = difference([judged], [worse], score, weights)
    assert shown.low <= shown.mean <= shown.high and shown.mean > 0
    whole = summary([judged], score, weights)
    assert whole.low <= whole.mean <= whole.high and whole.low < whole.high


# --- plans ---


@pytest.mark.parametrize("path", [DEFAULT_PLAN, QUICK_PLAN])
def test_the_shipped_plans_are_sound(path):
    plan = read_plan(path)
    pieces = plan.pieces()
    assert len(pieces) == len(set(pieces)) == len(plan.seeds) * len(plan.trainings())
    for piece in pieces:
        arm = plan.arms.get(piece.name)
        if arm and arm.start:
            assert pieces.index(Piece(arm.start, piece.seed)) < pieces.index(piece)
    assert f"randomness.seed={plan.seeds[-1]}" in plan.options_of(pieces[-1])


def test_every_arm_of_the_default_plan_builds_what_its_title_says():
    from llvip_macl.inference import build_model, model_config

    plan = read_plan(DEFAULT_PLAN)
    parts = {}
    for name in plan.arms:
        options = plan.options_of(Piece(name, 0))
        model = build_model(model_config(str(plan.config_of(name)), options), initialise=False)
        head = model.roi_head
        strength = head.macl_head and head.weights["macl"]
        parts[name] = (model.modality, model.neck.msp is not None, strength, head.dhn is not None)
    assert parts == {
        "visible": ("vis", False, None, False), "infrared": ("ir", False, None, False),
        "fused": ("both", False, None, False), "msp": ("both", True, None, False),
        "macl": ("both", True, 0.1, False), "macl_full": ("both", True, 1.0, False),
        "dhn": ("both", True, 0.1, True), "transfer": ("both", True, 0.1, True),
    }  # fmt: skip


UNKNOWN_ARM = {"comparisons": {"x": {"arm": "no", "against": "fused", "question": "?"}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seeds": [1, 1]}, "each one once"), ({"seed": 3}, "seed"), (UNKNOWN_ARM, "no arm"),
     ({"pretrainings": {}}, "no pretraining")],
)  # fmt: skip
def test_a_wrong_plan_is_refused(tmp_path, change, message):
    plan = {**yaml.safe_load(QUICK_PLAN.read_text()), **change}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    with pytest.raises(ConfigError, match=message):
        read_plan(tmp_path / "plan.yaml")


# --- the study, with a bench that trains nothing ---


class Bench:
    """Detections by arm: `fused` finds better than `infrared`; embeddings for arms of two modalities."""

    def __init__(self, folder):
        self.folder, self.trained = folder, []

    def train(self, piece, start):
        self.trained.append((piece.tag, start and start.name))
        self.checkpoint(piece).write_text(piece.tag)

    def checkpoint(self, piece):
        return self.folder / f"{piece.tag}.pth"

    def sha256(self, path):
        return path.read_text()

    def truth(self):
        return truth_of()

    def judged(self, piece):
        found = detections_of(seed=piece.seed + 1, noise=14.0 if piece.name == "infrared" else 2.0)
        rows = np.random.default_rng(piece.seed).normal(size=(20, 8)) if piece.name != "infrared" else np.zeros((0, 1))
        return SimpleNamespace(**vars(found), visible=rows, infrared=rows + 0.01, space="RoI features", tau=0.07,
                               persons_image=np.arange(len(rows)) % IMAGES)  # fmt: skip


@pytest.fixture
def study(tmp_path):
    return Study(read_plan(QUICK_PLAN), Bench(tmp_path), tmp_path / "results")


def test_pieces_start_from_their_pretraining_and_the_page_is_written(study):
    found = run(study)
    assert ("transfer-seed1", "stage1-seed1.pth") in study.bench.trained and len(study.bench.trained) == 8
    page = (study.folder / "report.html").read_text()
    assert "Embedded data" in page and "Does fusion beat infrared alone?" in page
    data = json.loads((study.folder / "experiments.json").read_text())["results"]
    one = data["comparisons"]["fusion_over_infrared"]["ap50"]
    assert one["mean"] > 0 and len(one["per_seed"]) == 2 and not one["headline"]
    assert data["best_single_modality"] == "infrared" == found.best_single()
    assert data["alignment"]["fused"]["nats_chance"] == pytest.approx(math.log(20))
    assert data["alignment"]["fused"]["found_first_chance"] == pytest.approx(5)


def test_what_changed_since_it_was_recorded_is_refused(study):
    run(study)
    study.bench.train = lambda piece, start: study.bench.checkpoint(piece).write_text("other weights")
    with pytest.raises(UserError, match="checkpoint changed"):
        run(study)
    changed = study.plan.model_copy(update={"options": ("train_cfg.max_epochs=2",)})
    assert digest(changed, Piece("fused", 0)) != digest(study.plan, Piece("fused", 0))
    with pytest.raises(UserError, match="settings changed"):
        run(Study(changed, study.bench, study.folder))


def test_what_a_config_inherits_is_part_of_its_digest(tmp_path):
    base, own = tmp_path / "base.py", tmp_path / "own.py"
    own.write_text("_base_ = ['base.py']\nlr = 0.1\n")
    plan = SimpleNamespace(config_of=lambda name: own, options_of=lambda piece: ())
    found = set()
    for epochs in (1, 2, 2):
        base.write_text(f"epochs = {epochs}\n")
        found.add(digest(plan, Piece("fused", 0)))
    assert len(found) == 2


def test_words_say_what_is_not_shown():
    base = {"mean": -3.0, "low": -5.0, "high": -1.0, "per_seed": [-2.0, -4.0], "one_sign": True, "headline": False}
    assert "better (fewer than five seeds)" in in_words("mr", base) and "WORSE" in in_words("ap50", base)
    assert "NOT shown" in in_words("mr", {**base, "high": 1.0})
    assert "seeds disagree" in in_words("mr", {**base, "one_sign": False})
    assert "no interval" in in_words("mr", {**base, "low": None, "high": None})


def test_sentences_stand_beside_chance_and_streets_are_told_by_their_path(study):
    found = Findings(study.plan, truth_of(), {arm: [study.bench.judged(Piece(arm, s)) for s in study.plan.seeds]
                                             for arm in study.plan.arms})  # fmt: skip
    lines = sentences(results(found), {name: name for name in study.plan.trainings()})
    assert any("chance 5.0 %" in line and "ln 20 = 3.00" in line for line in lines)
    assert scene_of("/x/images/set06/V001/visible/I00019.jpg") == "set06/V001"
    study.folder.mkdir()
    write_results(found, study.folder)
    assert (study.folder / "figures/retrieval.png").exists()


# --- children ---


def test_a_child_cannot_change_its_parent_and_its_end_is_told():
    from llvip_macl.experiment_work import in_child

    kept = []
    assert in_child(lambda: kept.append(1) or 0) == 0 and kept == []
    assert in_child(lambda: 2) == 2

    def mistake():
        raise UserError("a mistake")

    assert in_child(mistake) == 2
    assert in_child(lambda: 1 // 0) == 1
    assert in_child(lambda: os.kill(os.getpid(), 9)) == -9


@pytest.mark.slow
@pytest.mark.readme("python -m llvip_macl.experiments --quick", "python -m llvip_macl.experiments --minutes 25")
def test_the_quick_plan_runs_continues_and_ends(tmp_path, capfd, readme):
    from llvip_macl.experiments import main

    quick, minutes = readme
    argv = [*quick.arguments, "--work-dir", str(tmp_path)]
    assert main([*argv, "--minutes", "0.2"]) in (0, 143)
    assert main(argv) == 0
    data = json.loads((tmp_path / "results/quick/experiments.json").read_text())["results"]
    assert set(data["arms"]) == {"infrared", "fused", "transfer"} and data["images"] == 12
    argv = [*minutes.arguments, "--plan", str(QUICK_PLAN), "--work-dir", str(tmp_path)]
    assert main(argv) == 0 and "nothing is left to do" in capfd.readouterr().out
