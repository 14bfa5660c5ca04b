"""The laws of the three trainings, on a world of six training samples."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from bat_samples import TEACHER, arguments, command, equal, rows, trained, weights

from batvision_kd.checkpoints import load_model
from batvision_kd.config import resolve
from batvision_kd.crossfit import TAUGHT, CrossfitDataset, fold_depths
from batvision_kd.data.splits import location_folds
from batvision_kd.data_source import open_data
from batvision_kd.flags import parse
from batvision_kd.training import experiment
from batvision_kd.training.objective import Task, distillation_of
from batvision_kd.training.teaching import Teacher
from batvision_kd.training.validation import _in_sample_order, validate
from shared import checkpoint
from shared.errors import CheckpointError, UserError
from shared.run import World
from shared.storage import tensors_sha256


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A work folder with the embedded world and a teacher."""
    work = tmp_path_factory.mktemp("taught") / "work"
    assert command("rgb", work, "--experiment_name", TEACHER) == 0
    return work


@pytest.fixture(scope="module")
def audio(taught):
    return trained("audio", taught, "--experiment_name", "audio")


@pytest.fixture
def work(taught, tmp_path) -> Path:
    return Path(shutil.copytree(taught, tmp_path / "work"))


def told(capsys) -> str:
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error[error.index("error: ") :]


# --- what a training leaves -------------------------------------------------------------------------------------------


def test_a_training_leaves_the_contracts_folders(taught):
    found = {str(path.relative_to(taught)) for path in taught.rglob("*") if path.is_file()}
    checkpoints, logs, results = (f"{what}/{TEACHER}" for what in ("checkpoints", "logs", "results"))
    assert {f"{checkpoints}/{name}" for name in ("epoch_0001.pth", "epoch_0002.pth", "best_model.pth")} <= found
    assert {f"{logs}/run.json", f"{logs}/metrics.jsonl", f"{logs}/config.yaml", f"{results}/report.html",
            f"{results}/predictions.png"} <= found  # fmt: skip
    record = json.loads((taught / logs / "run.json").read_text())
    assert record["data"] == "embedded" and record["micro_batch"] == 2 and record["stages"]["rgb"]["done"]
    assert "embedded synthetic data" in (taught / results / "report.html").read_text()


def test_the_best_model_is_a_bare_state_dict_of_the_best_epoch(taught):
    from batvision_kd.models import create_rgb_depth_model

    file = taught / "checkpoints" / TEACHER / "best_model.pth"
    model = create_rgb_depth_model(base_channels=4)
    model.load_state_dict(torch.load(file, weights_only=True))
    assert not any(name.startswith("module.") for name in model.state_dict())
    scores = [row["rmse"] for row in rows(taught / "logs" / TEACHER, "rgb/val")]
    card = checkpoint.manifest(file)["extra"]
    assert card["val"]["rmse"] == min(scores) and card["epoch"] == scores.index(min(scores)) + 1
    assert {"kind", "model", "spectrogram", "image_size", "max_depth_m", "base_channels"} <= card.keys()


def test_both_files_give_a_model_that_scores_as_recorded(taught):
    folder = taught / "checkpoints" / TEACHER
    data = open_data(parse("rgb", arguments(taught), "x").settings()).val
    recorded = [row["rmse"] for row in rows(taught / "logs" / TEACHER, "rgb/val")]
    for name, rmse in (("best_model.pth", min(recorded)), ("epoch_0002.pth", recorded[1])):
        model, card = load_model(folder / name, kind="rgb", expect={"base_channels": 4, "image_size": (32, 32)})
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        for batch_size in (1, 3):
            scores = validate(model, data, "rgb", max_depth_m=card["max_depth_m"], batch_size=batch_size, world=World())
            assert scores["rmse"] == pytest.approx(rmse, rel=1e-5)


def test_the_moving_average_is_what_is_judged_and_kept(work):
    run = trained("audio", work, "--experiment_name", "ema", "--ema", "0.5", "--nb_epochs", "1")
    state = checkpoint.load(work / "checkpoints/ema/epoch_0001.pth")
    assert equal(weights(run.best), state["ema"]["shadow"])
    assert not equal(weights(run.best), state["model"])


# --- distillation -----------------------------------------------------------------------------------------------------


def test_without_its_weights_distillation_is_audio_alone_bit_for_bit(work, audio):
    run = trained("distillation", work, "--experiment_name", "none", "--lambda_kd", "0", "--lambda_feat", "0")
    assert equal(weights(run.best), weights(audio.best))
    theirs = [row["loss"] for row in rows(audio.folder, "audio/train")]
    assert [row["loss"] for row in rows(run.folder, "distillation/train")] == theirs


def test_a_taught_student_differs_and_is_the_student_alone(work, audio):
    run = trained("distillation", work, "--experiment_name", "kd", "--nb_epochs", "1")
    assert weights(run.best).keys() == weights(audio.best).keys()
    assert not equal(weights(run.best), weights(audio.best))
    state = checkpoint.load(work / "checkpoints/kd/epoch_0001.pth")["model"]
    assert any(name.startswith("features.") for name in state), "the projectors are saved to continue"
    assert load_model(work / "checkpoints/kd/epoch_0001.pth", kind="distillation")[1]["kind"] == "distillation"
    assert {"kd", "feat_cosine", "feat_stats"} <= rows(run.folder, "distillation/train")[0].keys()


@pytest.mark.fault(14)
def test_the_teacher_stays_bit_identical_and_gets_no_gradient(work):
    settings = parse("distillation", arguments(work), "x").settings()
    model, _ = load_model(work / "checkpoints" / TEACHER / "best_model.pth", kind="rgb")
    before = tensors_sha256(model.state_dict())
    student = experiment.build_model(settings, 2)
    teacher = Teacher(model, None, mirror=True, features=True, shuffle=False)
    method = distillation_of(settings, Task(settings.loss, edges=False), student, teacher)
    optimizer = torch.optim.SGD(method.model.parameters(), lr=0.1)
    batch = torch.utils.data.default_collate([open_data(settings).train[n] for n in (0, 1)])
    for _ in range(3):
        lesson = teacher.lesson(batch)
        depth, feature_terms = method.model(batch["audio"], lesson.features)
        sum([*method.response(depth, lesson, batch).values(), *feature_terms.values()]).backward()
        optimizer.step()
    assert tensors_sha256(model.state_dict()) == before
    assert all(p.grad is None for p in model.parameters())
    assert {"student", "features"} == {
        n.split(".")[0] for n, p in method.model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("kind", ["cosine", pytest.param("linear", marks=pytest.mark.slow)])
def test_annealed_weights_fall_to_a_tenth_and_the_log_shows_them(work, kind):
    run = trained("distillation", work, "--experiment_name", "anneal", "--adaptive", kind, "--lambda_feat", "0")
    weight = [row["weighted/kd"] / row["kd"] for row in rows(run.folder, "distillation/train")]
    assert weight == sorted(weight, reverse=True)
    assert weight[0] == pytest.approx(0.5, rel=1e-5) and weight[-1] == pytest.approx(0.05, rel=1e-5)


def test_balanced_weights_differ_from_fixed_ones_and_are_saved(work):
    run = trained(
        "distillation",
        work,
        "--experiment_name",
        "b",
        "--nb_epochs",
        "1",
        "--set",
        "distillation.adaptive.balance=true",
    )
    weight = [row["weighted/kd"] / row["kd"] for row in rows(run.folder, "distillation/train")]
    assert len({round(w, 6) for w in weight}) > 1
    saved = checkpoint.load(work / "checkpoints/b/epoch_0001.pth")["criterion"]
    assert set(saved) == {"kd", "feat_cosine", "feat_stats"} and float(saved["kd"]["task"]) > 0


def test_a_shuffled_teacher_gives_everyone_anothers_lesson(work):
    model, _ = load_model(work / "checkpoints" / TEACHER / "best_model.pth")
    rgb = torch.rand(3, 3, 32, 32)
    straight, shuffled = (
        Teacher(model, None, mirror=True, features=True, shuffle=s).lesson({"rgb": rgb}) for s in (False, True)
    )
    assert torch.equal(shuffled.depth, straight.depth[[2, 0, 1]])
    assert torch.equal(shuffled.mirrored, straight.mirrored[[2, 0, 1]])
    assert torch.equal(shuffled.features["d1"], straight.features["d1"][[2, 0, 1]])


@pytest.mark.fault(10)
def test_a_teacher_of_another_network_or_data_is_refused_with_both_values(work, capsys):
    for words, names in (
        (["--base_channels", "8"], "base_channels is 4 there and 8 here"),
        (["--set", "data.max_depth_m=12"], "max_depth_m is 30.0 there and 12.0 here"),
        (["--image_size", "48", "32"], "image_size is [32, 32] there and [48, 32] here"),
    ):
        assert command("distillation", work, "--experiment_name", "no", *words, "--fresh") == 2
        assert names in told(capsys)


@pytest.mark.fault(10)
def test_what_is_no_trained_teacher_is_refused(work, audio, capsys):
    assert command("distillation", work, "--experiment_name", "a", "--teacher", str(audio.best)) == 2
    assert "kind audio, not rgb" in told(capsys)
    assert command("distillation", work, "--experiment_name", "b", "--teacher", "nowhere.pth") == 2
    assert "run_rgb_depth_examples.sh 6" in told(capsys)
    file = work / "checkpoints" / TEACHER / "best_model.pth"
    untrained = experiment.build_model(parse("rgb", arguments(work), "x").settings(), 2).state_dict()
    checkpoint.save(file, untrained, step=6, pointers=(), extra=checkpoint.manifest(file)["extra"])
    assert command("distillation", work, "--experiment_name", "c") == 2
    assert "untrained" in told(capsys)
    file.with_name("best_model.pth.json").unlink()
    with pytest.raises(CheckpointError, match="manifest"):
        load_model(file)


@pytest.mark.fault(10)
def test_another_teacher_under_the_same_name_is_refused_on_resume(work, capsys):
    assert command("distillation", work, "--experiment_name", "kd", "--nb_epochs", "1") == 0
    run = work / "logs/kd/run.json"
    record = json.loads(run.read_text())
    run.write_text(json.dumps({**record, "stages": {}, "teacher": {**record["teacher"], "sha256": "0" * 64}}))
    assert command("distillation", work, "--experiment_name", "kd", "--nb_epochs", "1") == 2
    assert "is not the teacher that kd began with" in told(capsys)


# --- cross-fitting ----------------------------------------------------------------------------------------------------


def test_a_cross_fitted_depth_comes_from_a_teacher_that_never_saw_the_location(work, monkeypatch):
    """Fold k's stand-in teacher says depth k everywhere; what it was trained on is recorded."""
    settings = parse("distillation", arguments(work, "--crossfit_folds", "3"), "x").settings()
    sources, trained_on = open_data(settings), {}

    def train(own, world, given):
        number = int(own.experiment_name[-1])
        trained_on[number] = {record.location for record in given.train.records}
        file = work / f"fold{number}.pth"
        file.write_bytes(bytes([number]))
        return type("Run", (), {"best": file})

    def model_of(file, **kwargs):
        return lambda rgb: torch.full((len(rgb), 1, 32, 32), float(file.stem[-1])), {}

    monkeypatch.setattr("batvision_kd.crossfit.load_model", model_of)
    depths = fold_depths(settings, World(), sources, train)
    assert depths.shape == (6, 2, 32, 32) and len(trained_on) == 3
    for depth, record in zip(depths, sources.train.records, strict=True):
        assert record.location not in trained_on[int(depth[0, 0, 0])]
    assert sum(location_folds(sources.train.records, 3), ()) and (depths > 0).all()


def test_cross_fitted_depths_are_mirrored_with_their_sample(work):
    data = open_data(parse("distillation", arguments(work), "x").settings()).train
    plain = data.of_records(data.records)
    plain.augment = False
    truth = torch.stack([plain[n]["depth"] for n in range(len(plain))]).repeat(1, 2, 1, 1)
    keys = [(epoch, n) for epoch in range(3) for n in range(len(data))]
    flips = 0
    for key in keys:
        item = CrossfitDataset(data, truth)[key]
        assert torch.equal(item[TAUGHT][:1], item["depth"])
        flips += not torch.equal(item["depth"], truth[key[1], :1])
    assert 0 < flips < len(keys)


@pytest.mark.slow
def test_a_cross_fitted_distillation_runs_and_trains_its_folds_once(work, capsys):
    words = ("--experiment_name", "x", "--crossfit_folds", "2", "--nb_epochs", "1")
    assert command("distillation", work, *words) == 0
    assert {path.name for path in (work / "checkpoints").iterdir()} >= {"x", "x_fold1", "x_fold2"}
    capsys.readouterr()
    assert command("distillation", work, *words) == 0
    assert "is finished" in capsys.readouterr().out


# --- going on, going back, beginning anew -----------------------------------------------------------------------------


def test_a_finished_run_says_so_and_fresh_begins_anew(work, capsys):
    file = work / "checkpoints" / TEACHER / "best_model.pth"
    before = file.stat().st_mtime_ns
    assert command("rgb", work, "--experiment_name", TEACHER) == 0
    assert "is finished" in capsys.readouterr().out and file.stat().st_mtime_ns == before
    assert command("rgb", work, "--experiment_name", TEACHER, "--fresh") == 0
    assert file.stat().st_mtime_ns > before
    assert len(rows(work / "logs" / TEACHER, "rgb/val")) == 2


def test_going_back_to_an_epoch_repeats_what_followed_it(work):
    folder, logs = work / "checkpoints" / TEACHER, work / "logs" / TEACHER
    end, records = checkpoint.load(folder / "epoch_0002.pth"), rows(logs, "rgb/train")
    assert command("rgb", work, "--experiment_name", TEACHER, "--checkpoints", "1") == 0
    again = checkpoint.load(folder / "epoch_0002.pth")
    assert equal(again["model"], end["model"]) and again["position"] == end["position"]
    assert rows(logs, "rgb/train") == records and len(rows(logs, "rgb/val")) == 2


def test_an_epoch_that_was_not_kept_is_named_with_those_that_were(work, capsys):
    assert command("rgb", work, "--experiment_name", TEACHER, "--checkpoints", "7") == 2
    assert "has kept the epochs 1, 2" in told(capsys)


def test_other_settings_under_the_same_name_are_refused(work, capsys):
    assert command("rgb", work, "--experiment_name", TEACHER, "--lambda_smooth", "0.5") == 2
    message = told(capsys)
    assert "loss.lambda_smooth: 0.1 -> 0.5" in message and "--experiment_name" in message and "--run" not in message


# --- splitting, devices, roots ----------------------------------------------------------------------------------------


def test_a_split_batch_takes_the_same_steps(work):
    run = trained("rgb", work, "--experiment_name", "split", "--micro_batch", "1", "--nb_epochs", "1")
    assert json.loads((run.folder / "run.json").read_text())["micro_batch"] == 1
    assert [row["step"] for row in rows(run.folder, "rgb/train")] == [1, 2, 3]


@pytest.mark.parametrize("device", ["cuda:7", "gpu"], ids=["absent", "unknown"])  # an id "gpu" would be a mark
def test_a_device_that_is_not_there_is_a_clear_error(work, capsys, device):
    assert command("rgb", work, "--device", device) == 2
    assert device in told(capsys)


@pytest.mark.fault(15)
def test_a_root_that_is_named_and_missing_is_never_replaced(work, capsys):
    assert command("rgb", work, "--data_dir", str(work / "nowhere")) == 2
    assert "nowhere is not a folder" in told(capsys)
    assert command("rgb", work, "--dataset", "batvisionv1") == 2
    assert "--data_dir" in told(capsys)


def test_the_embedded_world_can_be_held_out_by_location_and_shrunk(work):
    settings = parse("audio", arguments(work), "x").settings()
    places = sorted({record.location for record in open_data(settings).train.records})
    words = [f"data.split=holdout data.val_locations=[{places[0]}] data.test_locations=[{places[1]}]"]
    sets = [part for setting in words[0].split() for part in ("--set", setting)]
    sources = open_data(parse("audio", arguments(work, *sets, "--set", "data.train_samples=4"), "x").settings())
    found = [{record.location for record in part.records} for part in (sources.train, sources.val, sources.test)]
    assert found[1:] == [{places[0]}, {places[1]}] and not found[0] & {places[0], places[1]}
    assert len(sources.train) == 4 and sources.train.augment and not sources.val.augment


def test_a_shared_normalisation_is_measured_on_the_training_split(work):
    sets = ("--set", "data.spectrogram.normalisation=mean_std")
    sources = open_data(parse("audio", arguments(work, *sets), "x").settings())
    assert sources.val.settings == sources.train.settings
    plain = sources.train.of_records(sources.train.records)
    plain.augment = False
    audio = torch.stack([plain[n]["audio"] for n in range(len(plain))])
    assert float(audio.mean()) == pytest.approx(0, abs=1e-4) and float(audio.std()) == pytest.approx(1, abs=1e-3)


def test_processes_hand_their_scores_back_in_sample_order():
    parts = [[(0.0,), (3.0,), (6.0,)], [(1.0,), (4.0,)], [(2.0,), (5.0,)]]
    world = type("W", (), {"size": 3, "gather": lambda self, rows: parts})()
    assert _in_sample_order(parts[0], world) == [(float(n),) for n in range(7)]


def test_wandb_is_optional_and_told(work, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert command("rgb", work, "--experiment_name", "w", "--nb_epochs", "1", "--use_wandb") == 0
    assert "wandb is not installed" in capsys.readouterr().out


def test_wandb_gets_project_name_and_epochs(work, monkeypatch):
    calls = []
    errors = type("Errors", (), {"Error": OSError})
    init = staticmethod(lambda **words: calls.append(words) or stub)
    ignore = staticmethod(lambda *words, **named: None)
    stub = type("Wandb", (), {"init": init, "log": staticmethod(calls.append), "errors": errors,
                              "define_metric": ignore, "finish": ignore})  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", stub)
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ("--use_wandb", "--wandb_project", "echoes", "--nb_epochs", "1")
    assert command("rgb", work, "--experiment_name", "w", *words) == 0
    assert (calls[0]["project"], calls[0]["name"], calls[0]["mode"]) == ("echoes", "w", "offline")
    assert any(record.get("rgb/val/rmse", 0) > 0 for record in calls[1:])
    assert {"rgb/train/loss", "rgb/epoch/loss"} <= {name for record in calls[1:] for name in record}


@pytest.mark.fault(12)
def test_an_epoch_without_any_valid_depth_never_makes_a_nan(work):
    settings = resolve("audio")
    task = Task(settings.loss, edges=False)
    depth = torch.rand(2, 1, 8, 8, requires_grad=True)
    batch = {"depth": torch.zeros(2, 1, 8, 8), "valid": torch.zeros(2, 1, 8, 8, dtype=torch.bool)}
    terms = task(depth + 1, batch)
    sum(task.weights[name] * term for name, term in terms.items()).backward()
    assert terms["l1"].item() == 0 and depth.grad.isfinite().all()


def test_data_that_changed_is_refused_on_resume(work, capsys):
    run = work / "logs" / TEACHER / "run.json"
    run.write_text(run.read_text().replace(json.loads(run.read_text())["data_fingerprint"], "0" * 12))
    assert command("rgb", work, "--experiment_name", TEACHER) == 2
    assert "begun with the samples 000000000000" in told(capsys)


def test_train_raises_what_a_caller_can_read(work):
    with pytest.raises(UserError, match="is not a folder"):
        trained("rgb", work, "--data_dir", str(work / "nowhere"))
