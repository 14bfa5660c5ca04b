"""The comparison with planted scores: it must find a planted effect, must not find an absent one, and must hold to what
was fixed before the test split was looked at."""

import json
from pathlib import Path

import experiment_samples
import pytest
from experiment_samples import ARMS, LEVELS, PlantedBench, names, plan

from batvision_kd import experiments
from batvision_kd.comparison import Gains, curve_in_words, effect_in_words, order_in_words
from batvision_kd.experiment_plan import DEFAULT_PLAN, QUICK_PLAN, Piece, read_plan
from batvision_kd.experiment_report import sentences
from batvision_kd.experiments import Study, findings, run
from shared.errors import ConfigError, UserError
from shared.metrics import PairedDifference

DEMO = DEFAULT_PLAN.with_name("demo.yaml")


def study(folder: Path, levels: dict | None = None, of_size: dict | None = None, **changes) -> Study:
    made = plan(**changes)
    return Study(made, folder, PlantedBench(made, {**LEVELS, **(levels or {})}, of_size or {}))


def judged(one: Study):
    """Its findings, without report and pictures."""
    return findings(one)[0]


def verdict(found) -> str:
    return "\n".join(sentences(found))


def difference_m(text: str, before: str) -> float:
    """The number that follows `before`."""
    return float(text.split(before)[1].split(" m")[0])


# --- planted effects --------------------------------------------------------------------------------------------------


def test_a_planted_gain_is_found(tmp_path):
    found = judged(study(tmp_path, {"kd_depth": 0.9, "kd_full": 0.8}))
    claim = found.against_audio("kd_full")
    assert claim.high < 0 and claim.mean == pytest.approx(-0.2, abs=0.03) and claim.one_sign
    text = verdict(found)
    assert "KD(depth + features) has a lower error than audio alone" in text
    assert "gain2 > gain1 > 0 held (" in text and "RGB is best" in text
    assert "Fewer than five seeds: an indication, not a headline." in text
    assert not found.holes and not found.curve


def test_an_absent_gain_is_not_found_and_the_reasons_are_looked_at(tmp_path):
    found = judged(study(tmp_path, curve_samples=(100, 200)))
    text = verdict(found)
    assert "no effect is shown" in text and "the interval includes 0" in text
    assert difference_m(text, "Between audio alone and its teacher lie ") == pytest.approx(0.5, abs=0.03)
    assert "In the holes only: KD(depth + features) against audio alone: no effect is shown" in text
    assert "no trend is visible beyond the intervals" in text
    assert set(found.holes) == {"rgb", "audio", "kd_full"} and set(found.curve) == {100, 200}


def test_harm_is_reported_with_its_sign(tmp_path):
    text = verdict(judged(study(tmp_path, {"kd_full": 1.3})))
    assert "HIGHER error than audio alone (+0.3" in text
    assert "gain2 > gain1 > 0 did not hold (" in text


def test_a_teacher_that_is_not_best_is_told(tmp_path):
    assert "RGB is NOT best: KD(depth + features) is" in verdict(judged(study(tmp_path, {"rgb": 2.0, "kd_full": 0.7})))


def test_controls_stand_beside_the_model(tmp_path):
    found = judged(study(tmp_path))
    assert found.constant == "median", "the best constant is chosen on validation"
    assert found.constant_against_audio().low > 0
    assert found.control_against("audio", "shuffled").mean == pytest.approx(0.5, abs=0.03)
    text = verdict(found)
    assert "The best constant map (median) is worse than audio" in text
    assert "Audio with ears exchanged is worse than audio" in text


def test_a_model_that_does_not_listen_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(experiment_samples.CONTROL_COST, "shuffled", 0.0)
    assert "Audio with echo of another image is NOT shown to be worse than audio" in verdict(judged(study(tmp_path)))


def test_a_gain_that_grows_with_the_data_is_told(tmp_path):
    found = judged(study(tmp_path, of_size={("kd_full", 100): 0.6, ("kd_full", 200): 0.3}, curve_samples=(200, 100)))
    assert list(found.curve_differences()) == [100, 200]
    assert "the gain grows with the data beyond the intervals" in verdict(found)


def about(mean: float, half: float = 0.01, seeds: int = 3) -> PairedDifference:
    return PairedDifference(mean, mean - half, mean + half, (mean,) * seeds)


def test_the_order_of_the_gains_in_words():
    held = order_in_words(Gains(about(0.1), about(0.2), about(0.1)))
    weak = order_in_words(Gains(about(0.1), about(0.105), about(0.005)))
    reversed_ = order_in_words(Gains(about(0.1), about(0.05), about(-0.05)))
    negative = order_in_words(Gains(about(-0.1), about(-0.05), about(0.05)))
    assert held.startswith("gain2 > gain1 > 0 held (")
    assert weak.startswith("gain2 > gain1 > 0 held in the means only") and "interval of gain2 > gain1 includes" in weak
    assert "did not hold (gain2 > gain1 failed" in reversed_ and "did not hold (gain1 > 0 failed" in negative


def test_claims_in_words():
    five = effect_in_words("KD", about(-0.1, seeds=5), "rmse")
    assert five.endswith("every seed of one sign.")
    mixed = effect_in_words("KD", PairedDifference(-0.1, -0.2, -0.01, (-0.3, 0.1, -0.1)), "rmse")
    assert mixed.endswith("its seeds disagree in sign: no claim.")
    assert "no effect is shown" in effect_in_words("KD", about(0.0), "rmse")
    nothing = PairedDifference(-0.1, float("nan"), float("nan"), (-0.1,))
    assert "no effect is shown" in effect_in_words("KD", nothing, "rmse")
    shrinking = curve_in_words([1, 2], [about(-0.3), about(0.0)])
    assert "an effect is shown at 1 samples" in shrinking and "shrinks" in shrinking


# --- what is fixed, what is kept --------------------------------------------------------------------------------------


def test_without_a_choice_the_test_split_is_not_looked_at(tmp_path):
    undecided = study(tmp_path, {"kd_adaptive": 0.6}, chosen=None)
    with pytest.raises(UserError, match="validation prefers kd_adaptive"):
        judged(undecided)
    assert {split for _, split, _ in undecided.bench.judged} == {"val"}
    judged(study(tmp_path, {"kd_adaptive": 0.6}, chosen="kd_adaptive"))


def test_the_choice_cannot_change_once_the_test_split_was_looked_at(tmp_path):
    judged(study(tmp_path))
    for change in ({"chosen": "kd_depth"}, {"metric": "mae"}, {"protocol": "min05"}):
        with pytest.raises(UserError, match="already looked at"):
            judged(study(tmp_path, **change))


def test_a_choice_against_validation_is_told(tmp_path):
    assert "Validation would have preferred KD(depth)" in verdict(judged(study(tmp_path, {"kd_depth": 0.5})))


def test_a_cut_comparison_continues_and_repeats_nothing(tmp_path):
    cut = study(tmp_path)
    cut.bench.stop_after = 4
    with pytest.raises(UserError, match="cut here"):
        judged(cut)
    rest = study(tmp_path)
    judged(rest)
    assert len(cut.bench.trainings) == 4 and len(rest.bench.trainings) == 11
    again = study(tmp_path)
    judged(again)
    assert not again.bench.trainings and not again.bench.judged


def test_a_finished_piece_with_other_settings_is_refused(tmp_path):
    judged(study(tmp_path))
    with pytest.raises(UserError, match="its settings changed since"):
        judged(study(tmp_path, settings={"training": {"nb_epochs": 3}}))


def test_other_weights_in_a_finished_piece_are_refused(tmp_path):
    judged(study(tmp_path))
    (tmp_path / "checkpoints/planted-audio-seed1/best_model.pth").write_text("another")
    with pytest.raises(UserError, match="its best changed since"):
        judged(study(tmp_path))


def test_another_teacher_is_refused(tmp_path):
    judged(study(tmp_path))
    (tmp_path / "checkpoints/planted-rgb-seed0/best_model.pth").write_text("another")
    (tmp_path / "results/planted/pieces/rgb-seed0.json").unlink()
    with pytest.raises(UserError, match="kd_depth-seed0: its teacher changed"):
        judged(study(tmp_path))


def test_scores_of_other_data_are_made_again(tmp_path):
    judged(study(tmp_path))
    other = study(tmp_path)
    other.bench.fingerprint = "def"
    judged(other)
    assert ("audio-seed0", "test", None) in other.bench.judged


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_every_arm_meets_every_seed_and_the_teacher_comes_first():
    pieces = names(plan().pieces())
    assert len(pieces) == len(set(pieces)) == 15 and pieces[0] == "rgb-seed0"
    assert names(plan(curve_samples=(9,), seeds=(4,)).curve_pieces()) == [
        "rgb-n9-seed4", "audio-n9-seed4", "kd_full-n9-seed4"]  # fmt: skip


def test_students_of_one_seed_differ_in_their_distillation_alone():
    """The teacher trains longer; all else it shares with them."""
    made = read_plan(DEFAULT_PLAN)
    settings = {arm: made.settings_of(Piece(arm, 1), Path("out")) for arm in made.arms}
    shared = {arm: one.model_dump(exclude={"kind", "experiment_name", "distillation"}) for arm, one in settings.items()}
    shared["rgb"]["training"]["nb_epochs"] //= 2
    assert all(one == shared["audio"] for one in shared.values())
    assert {arm: settings[arm].distillation.lambda_feat for arm in made.taught} == {
        "kd_depth": 0.0, "kd_full": 0.1, "kd_adaptive": 0.1}  # fmt: skip
    assert settings["kd_full"].distillation.teacher == Path("out/checkpoints/experiments-rgb-seed1/best_model.pth")


def test_a_smaller_training_set_takes_as_many_steps():
    made = read_plan(DEFAULT_PLAN).model_copy(update={"chosen": "kd_full"})
    whole, half = (made.settings_of(Piece("audio", 0, n), Path()) for n in (None, 240))
    assert half.data.train_samples == 240 and half.training.nb_epochs == 2 * whole.training.nb_epochs
    taught = made.settings_of(Piece("kd_full", 0, 240), Path())
    assert "rgb-n240-seed0" in str(taught.distillation.teacher)


@pytest.mark.parametrize("path", [DEFAULT_PLAN, QUICK_PLAN, DEMO], ids=lambda path: path.name)
def test_the_plans_that_ship_are_sound(path):
    made = read_plan(path)
    assert (made.metric, made.protocol) == ("rmse", "strict") and made.teacher == "rgb"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": "audio"}, "is no distillation arm"),
        ({"arms": {n: a for n, a in ARMS.items() if n != "rgb"}}, "0 of kind rgb"),
        ({"arms": {n: ARMS[n] for n in ("rgb", "audio")}, "chosen": None}, "none of kind distillation"),
        ({"seeds": (1, 1)}, "each one once"),
        pytest.param({"name": "../up"}, "pattern", marks=pytest.mark.fault(21)),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        plan(**change)


@pytest.mark.fault(19)
def test_a_wrong_setting_of_an_arm_is_found_before_anything_is_trained(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(DEMO.read_text().replace("nb_epochs: 14", "nb_epoch: 14"))
    with pytest.raises(ConfigError, match=r"training\.nb_epochs"):
        read_plan(path)


# --- the files and the command ----------------------------------------------------------------------------------------


def test_the_files_a_reader_looks_for_are_there(tmp_path):
    run(study(tmp_path, {"kd_full": 0.8}))
    folder = tmp_path / "results/planted"
    found = json.loads((folder / "experiments.json").read_text())["results"]
    assert found["question"] == {"chosen": "kd_full", "metric": "rmse", "protocol": "strict"}
    assert set(found["test"]) == set(ARMS) and len(found["test"]["audio"]["by_seed"]) == 3
    assert found["unit"] == "rooms within locations" and found["minus_audio"]["kd_full"]["high"] < 0
    page = (folder / "report.html").read_text()
    for text in ("planted scores: no result", "KD(depth + features) has a lower error", "ears exchanged", "95 %"):
        assert text in page
    assert (folder / "figures/arms.png").stat().st_size > 5000


def test_quick_and_config_exclude_each_other(capsys):
    assert experiments.main(["--quick", "--config", "plan.yaml"]) == 2
    assert "not both" in capsys.readouterr().err


def test_the_time_limit_ends_the_command_so_that_it_can_continue(tmp_path, monkeypatch, capsys):
    import time

    monkeypatch.setattr(experiments, "run", lambda study: time.sleep(30))
    assert experiments.main(["--quick", "--output_dir", str(tmp_path), "--minutes", "0.002"]) == 143
    assert "the same command continues" in capsys.readouterr().err


@pytest.mark.slow
def test_the_quick_form_trains_judges_and_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert experiments.main(["--quick", "--output_dir", str(tmp_path)]) == 0
    folder = tmp_path / "results/experiments_quick"
    found = json.loads((folder / "experiments.json").read_text())["results"]
    assert set(found["test"]) == {"rgb", "audio", "kd_depth", "kd_full"} and found["images"] == 6
    assert "embedded synthetic data" in (folder / "report.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in (folder / "scores").iterdir()}
    assert experiments.main(["--quick", "--output_dir", str(tmp_path)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "scores").iterdir()}, (
        "nothing is judged again"
    )
