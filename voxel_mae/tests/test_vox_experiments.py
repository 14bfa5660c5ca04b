"""The comparison: plans, intervals over sequences, planted effects and the words for them, pieces that were changed."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from shared.errors import ConfigError, DataError, UserError
from shared.metrics import PairedDifference
from voxel_mae import experiment_work
from voxel_mae.evaluation import Evaluation, JudgedFrame
from voxel_mae.experiment_intervals import Judged, judge, paired, sequence_weights
from voxel_mae.experiment_plan import DEFAULT_PLAN, PLANS, QUICK_PLAN, Piece, Plan, arguments, as_text, read_plan
from voxel_mae.experiment_report import differences, draw, label_efficiency
from voxel_mae.experiment_results import as_json, equality_in_words, in_words, occupancy_in_words
from voxel_mae.experiments import Study, main, run, train_all, trained
from voxel_mae.flags import parse_config

CLASSES = ("dumptruck", "excavator", "grader", "roller")
IDS = tuple(f"site{k // 2}_{k % 2}" for k in range(20))  # ten sequences of two frames
BOX = np.array([[8.0, 0.0, 0.0, 4.0, 2.0, 2.0, 0.0]])


def scored(level, seed=0, draws=200):
    """Scores around a level whose sequences vary alike under every draw."""
    noise = np.random.default_rng(7).normal(0, 0.02, draws)  # of the sequences: shared by all arms
    own = np.random.default_rng(seed).normal(0, 0.004, draws)
    return Judged(IDS, level, dict.fromkeys(CLASSES, level), {"0-10": level}, level + noise + own)


class FakeBench:
    """Finishes every piece at once; an arm's score follows from `levels`."""

    mark, fingerprint = "no real data", "abc"

    def __init__(self, folder, levels):
        self.folder, self.levels, self.asked = folder, levels, []

    def train(self, piece, weights=None):
        self.asked.append((piece.tag, weights and weights.name))
        path = self.folder / piece.tag
        if not path.exists():
            path.write_text(piece.tag)
        return path

    def sha256(self, path):
        return path.read_text()

    def judge(self, piece):
        level = self.levels.get((piece.name, piece.budget), self.levels[piece.name])
        return scored(level + 0.001 * piece.seed, piece.seed)

    def pretrained(self, piece):
        return {"occupancy": 0.4, "occupancy_entropy": 0.5, "occupancy_excess": -0.1, "keep": 0.3}

    def equality(self):
        return {"equal": True, "steps": 4, "sha256": {"plain_rmae": "a" * 64, "phase1_weight_0": "a" * 64}}


@pytest.fixture
def study(tmp_path):
    plan = read_plan(QUICK_PLAN).model_copy(update={"seeds": (0, 1, 2, 3, 4)})
    (tmp_path / "made").mkdir()
    return Study(plan, FakeBench(tmp_path / "made", {"scratch": 0.3, "rmae": 0.4}), tmp_path / "results")


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_plan_gives_command_lines_that_the_tools_accept(path):
    plan = read_plan(path)
    pieces = {(piece.name, piece.budget): piece for piece in plan.pieces()}
    for piece in pieces.values():
        request = parse_config(piece.program, arguments(plan, piece, Path("output")))
        assert request.experiment.pretraining == (piece.budget is None)
        assert request.experiment.OPTIMIZATION.NUM_EPOCHS >= 1 and piece.seed == request.experiment.SEED


def test_pretrainings_come_before_the_arms_that_start_from_them():
    plan = read_plan(DEFAULT_PLAN)
    pieces = plan.pieces()
    for number, piece in enumerate(pieces):
        start = piece.budget and plan.arms[piece.name].pretraining
        assert start is None or Piece(start, None, piece.seed) in pieces[:number]
    assert len({piece.tag for piece in pieces}) == len(pieces)


def test_what_the_default_and_the_headline_plan_both_train_is_one_run():
    default, headline = read_plan(DEFAULT_PLAN), read_plan(PLANS / "headline.yaml")
    both = set(headline.pieces()) & set(default.pieces())
    assert {(piece.name, piece.budget) for piece in both} == {
        ("rmae", None), ("scratch", "p5_long"), ("rmae", "p5_long")}  # fmt: skip
    for piece in both:
        assert arguments(headline, piece, Path("output")) == arguments(default, piece, Path("output"))


@pytest.mark.parametrize("results, plan", [
    ("experiments", "default"), ("experiments_headline", "headline"), ("experiments_headline_loose", "headline_loose"),
])  # fmt: skip
def test_the_committed_results_are_those_of_the_plan_as_it_stands(results, plan):
    found = json.loads((PLANS.parent / "benchmarks/results" / f"{results}.json").read_text())["results"]
    assert Plan.model_validate(found["plan"]) == read_plan(PLANS / f"{plan}.yaml")


def test_the_full_plan_asks_all_that_the_default_asks_with_more_of_everything():
    default, full = read_plan(DEFAULT_PLAN), read_plan(PLANS / "full.yaml")
    assert set(default.comparisons) < set(full.comparisons) and set(full.budgets) - set(default.budgets) == {"p20"}
    assert set(default.seeds) < set(full.seeds) and full.pretrain_epochs == 2 * default.pretrain_epochs
    assert full.name != default.name and full.world == default.world


def test_the_maskings_compared_are_what_their_names_say():
    plan = read_plan(DEFAULT_PLAN)
    kinds = {name: parse_config(piece.program, arguments(plan, piece, Path("output"))).experiment
             for name in plan.pretrainings for piece in [Piece(name, None, 0)]}  # fmt: skip
    masking = {name: one.MODEL.BACKBONE_3D.masking for name, one in kinds.items()}
    assert masking == {"rmae": "calibrated", "phase2": "calibrated", "radial": "radial", "two_stage": "two_stage"}
    assert kinds["phase2"].LOSS_CONFIG.TEACHER_STUDENT_WEIGHT == 1 and not kinds["rmae"].MODEL.BACKBONE_3D.ENABLE_MLFR


def test_each_seed_draws_its_own_label_budget():
    plan = read_plan(DEFAULT_PLAN)
    splits = [
        parse_config("train.py", arguments(plan, Piece("rmae", "p5_long", seed), Path("output"))) for seed in (0, 3)
    ]
    assert [one.experiment.DATA_CONFIG.DATA_SPLIT.train for one in splits] == ["train_5_0", "train_5_3"]


@pytest.mark.fault(19)
@pytest.mark.parametrize("change, word", [
    ({"arms": {"rmae": {"title": "x", "pretraining": "none"}}}, "pretraining 'none'"),
    ({"comparisons": {"a": {"arm": "rmae", "against": "rmae", "budget": "p7", "question": "?"}}}, "p7"),
    ({"comparisons": {"a": {"arm": "rmae", "against": "rmae", "budget": "p20", "against_budget": "p7",
                            "question": "?"}}}, "rmae trained on p7"),
    ({"seeds": [1, 1]}, "each one once"), ({"iou": {"loader": 0.5}}, "one value for each"),
    ({"world": {"sequences": 3}}, "sequences"), ({"batch_sise": 3}, "batch_sise"),
    ({"over": "nothing.yaml"}, "cannot read.*nothing.yaml"), ({"over": "plan.yaml"}, "laid over itself"),
    ({"over": 3}, "over = 3"),
])  # fmt: skip
def test_a_wrong_plan_is_named(tmp_path, change, word):
    content = yaml.safe_load(QUICK_PLAN.read_text()) | {"over": str(PLANS / "common/sites.yaml")} | change
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=word):
        read_plan(tmp_path / "plan.yaml")


def test_values_survive_the_command_line():
    value = {"a": [1, 2.5, True], "b": None, "c": {"d": "train_5"}}
    assert yaml.safe_load(as_text(value)) == value


# --- intervals --------------------------------------------------------------------------------------------------------


def test_whole_sequences_are_drawn_as_many_as_there_are():
    weights = sequence_weights(IDS, 50)
    assert (weights.sum(1) == len(IDS)).all() and (weights[:, ::2] == weights[:, 1::2]).all()
    assert (weights == 0).any() and (weights > 1).any()


def frames(found):
    empty = np.zeros((0, 7))
    return [JudgedFrame(one, BOX, np.array([1]), BOX if hit else empty, np.ones(int(hit)), np.ones(int(hit), int))
            for one, hit in zip(IDS, found, strict=True)]  # fmt: skip


def test_perfect_and_absent_detections_have_no_spread_and_half_have_some():
    iou = dict.fromkeys(CLASSES, 0.5)
    make = lambda found: judge(Evaluation(frames(found), CLASSES, iou=iou, metrics=("3d",)), "3d", 60)  # noqa: E731
    perfect, none, half = make([True] * 20), make([False] * 20), make([k // 2 % 2 == 0 for k in range(20)])
    assert perfect.mean_ap == 1 and (perfect.draws == 1).all() and none.mean_ap == 0 and (none.draws == 0).all()
    assert half.mean_ap == pytest.approx(0.5) and half.draws.std() > 0.05
    assert paired([half], [half]).low == paired([half], [half]).high == 0


def test_a_shared_difficulty_of_sequences_cancels_in_a_paired_difference():
    treated, control = (
        [scored(level, seed) for seed in seeds] for level, seeds in ((0.45, range(3)), (0.40, range(3, 6)))
    )
    found = paired(treated, control)
    assert found.mean == pytest.approx(0.05) and 0.03 < found.low < 0.05 < found.high < 0.07
    with pytest.raises(DataError, match="different frames"):
        paired([treated[0]], [Judged(IDS[:2], 0, {}, {}, treated[0].draws)])


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found, word", [
    (PairedDifference(5.0, 2.0, 8.0, (4.0, 5.0, 6.0, 5.0, 5.0)), "A is better than B"),
    (PairedDifference(5.0, 2.0, 8.0, (4.0, 5.0, 6.0)), "not a headline"),
    (PairedDifference(-5.0, -8.0, -2.0, (-4.0,) * 5), "A is WORSE than B"),
    (PairedDifference(1.0, -2.0, 4.0, (1.0,) * 5), "Not shown"),
    (PairedDifference(3.0, 1.0, 5.0, (9.0, -3.0, 3.0, 3.0, 3.0)), "No claim"),
    (PairedDifference(3.0, float("nan"), float("nan"), (3.0,)), "Not shown"),
])  # fmt: skip
def test_the_words_follow_the_numbers(found, word):
    assert word in in_words("Q?", "A", "B", found)


def test_equality_and_occupancy_are_said_as_found():
    assert " IS plain" in equality_in_words({"equal": True, "steps": 4, "sha256": {"a": "1" * 64, "b": "1" * 64}})
    assert "NOT plain" in equality_in_words({"equal": False, "steps": 4, "sha256": {"a": "1" * 64, "b": "2" * 64}})
    means = {"occupancy_excess": 0.2, "occupancy_entropy": 0.4}
    assert "0.600, NOT below" in occupancy_in_words("R-MAE", [means])
    assert "0.200, below" in occupancy_in_words("R-MAE", [means | {"occupancy_excess": -0.2}])


# --- the command's work -----------------------------------------------------------------------------------------------


def test_a_planted_effect_is_found_and_written(study):
    run(study)
    data = json.loads((study.folder / "experiments.json").read_text())["results"]
    difference = data["differences_points"]["rmae_20"]
    assert difference["mean"] == pytest.approx(10) and difference["low"] > 5 and len(difference["per_seed"]) == 5
    assert "R-MAE is better than from scratch" in data["verdict"][0] and data["mark"] == "no real data"
    assert set(draw(Plan.model_validate(data["plan"]), data)) == {"label_efficiency", "differences"}  # as pictures.py
    page = (study.folder / "report.html").read_text()
    assert "no real data" in page and page.count("<img") == 2


def test_plots_name_the_arms_and_keep_them_apart(study):
    """Also where one share of labels has two schedules."""
    long = study.plan.budgets["p20"].model_copy(update={"epochs": 7})
    plan = study.plan.model_copy(update={"budgets": {**study.plan.budgets, "p20_long": long}})
    one = plan.comparisons["rmae_20"]
    plan = plan.model_copy(update={"comparisons": {"a": one, "b": one.model_copy(update={"budget": "p20_long"})}})
    found = run(replace(study, plan=plan))
    data = as_json(found)
    labels = [label.get_text() for label in differences(plan, data).axes[0].get_yticklabels()]
    assert labels == [f"R-MAE\nless from scratch, 20 %, {epochs} epochs" for epochs in (1, 7)]
    (panel,) = label_efficiency(plan, data).axes
    columns = [label.get_text() for label in panel.get_xticklabels()]
    assert columns == ["20 %, 1 epochs", "20 %, 7 epochs", "100 %, 1 epochs"]
    scratch, rmae = (line.get_xdata() for line in panel.lines)
    assert len(scratch) == len(rmae) == 3 and (scratch < rmae).all()


def test_arms_with_labels_of_their_own_are_compared_and_told_apart(study):
    """As pretraining is with scratch trained for as many steps."""
    one = study.plan.comparisons["rmae_20"].model_copy(update={"against_budget": "p100"})
    study.bench.levels["scratch", "p100"] = 0.5
    found = run(replace(study, plan=study.plan.model_copy(update={"comparisons": {"a": one}})))
    data = as_json(found)
    assert data["differences_points"]["a"]["mean"] == pytest.approx(-10)
    assert "R-MAE (20 %, 1 epochs) is WORSE than from scratch (100 %, 1 epochs)" in data["verdict"][0]
    (label,) = differences(found.plan, data).axes[0].get_yticklabels()
    assert label.get_text() == "R-MAE (20 %, 1 epochs)\nless from scratch (100 %, 1 epochs)"


def test_pretraining_is_asked_against_as_many_steps_of_scratch():
    plan = read_plan(PLANS / "headline.yaml")
    (_, treated), (_, control) = plan.comparisons["rmae_5_equal"].sides
    world, short, long = plan.world, plan.budgets[treated], plan.budgets[control]
    labelled = world["train_sequences"] * world["frames"] * short.percent / 100
    pretrained = (world["train_sequences"] + world["unlabelled_sequences"]) * world["frames"] * plan.pretrain_epochs
    assert labelled * long.epochs == labelled * short.epochs + pretrained


def test_no_effect_is_said_to_be_none(study):
    study.bench.levels["rmae"] = study.bench.levels["scratch"]
    run(study)
    verdict = json.loads((study.folder / "experiments.json").read_text())["results"]["verdict"]
    assert "Not shown" in verdict[0]


def test_arms_start_from_the_pretraining_of_their_own_seed(study):
    run(study)
    starts = dict(study.bench.asked)
    assert starts["p20-rmae-seed3"] == "pre-rmae-seed3" and starts["p20-scratch-seed3"] is None
    assert len(study.bench.asked) == len(study.plan.pieces())


def test_seeds_trained_apart_are_found_by_the_whole_comparison(study):
    train_all(study, [1, 3])
    apart = list(study.bench.asked)
    assert {tag[-1] for tag, _ in apart} == {"1", "3"} and not (study.folder / "experiments.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in study.bench.folder.iterdir()}
    assert len(run(study).judged["rmae", "p20"]) == 5
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items()), "trained once"


def test_the_command_trains_the_seeds_asked_for_and_reports_without(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment_work, "Bench", lambda plan, output_dir: study.bench)
    command = ["--quick", "--results_dir", str(tmp_path / "results")]
    assert main([*command, "--seeds", "7"]) == 2 and "--seeds 7" in capsys.readouterr().err
    report = tmp_path / "results/experiments_quick/experiments.json"
    assert main([*command, "--seeds", "0"]) == 0 and study.bench.asked and not report.exists()
    assert main(command) == 0 and report.exists()


def test_a_seed_that_the_plan_has_not_is_refused(study):
    with pytest.raises(UserError, match=r"--seeds 7: plan experiments_quick has seeds 0, 1, 2, 3, 4"):
        train_all(study, [1, 7])
    assert not study.bench.asked and not study.folder.exists()


def test_a_piece_that_changed_is_refused(study):
    run(study)
    piece = Piece("scratch", "p20", 0)
    (study.bench.folder / piece.tag).write_text("trained anew")
    with pytest.raises(UserError, match=r"checkpoint changed.*two studies"):
        trained(study, piece, None)
    other, asked = study.plan.model_copy(update={"batch_size": 7}), len(study.bench.asked)
    with pytest.raises(UserError, match="settings"):
        trained(Study(other, study.bench, study.folder), Piece("scratch", "p20", 1), None)
    assert len(study.bench.asked) == asked, "nothing is trained before it is refused"


def test_an_interrupted_comparison_keeps_what_was_recorded(study):
    stop = SimpleNamespace(left=3)
    train = study.bench.train

    def cut(piece, weights=None):
        stop.left -= 1
        if stop.left < 0:
            raise KeyboardInterrupt
        return train(piece, weights)

    study.bench.train = cut
    with pytest.raises(KeyboardInterrupt):
        run(study)
    assert len(list((study.folder / "pieces").iterdir())) == 3 and not (study.folder / "experiments.json").exists()
    study.bench.train = train
    run(study)
    assert (study.folder / "experiments.json").exists()
