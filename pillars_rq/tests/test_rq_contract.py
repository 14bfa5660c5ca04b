"""Every command line of the contract, verbatim, in a folder whose exp/split1_ALL.yaml is the contract file shrunk."""

import argparse
import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from rq_run_samples import GRID, command, write_config, write_work

from pillars_rq import rq_command
from pillars_rq.bitstream.codec import codec_from
from pillars_rq.grid import Grid
from pillars_rq.network import PointPillars, Widths
from pillars_rq.progressive import GLOBAL_BEST
from pillars_rq.weights import load_base, save_base
from pillars_rq.wire.commands import load_ends
from shared import checkpoint

TRAIN = "python train_eval_rq.py --config exp/split1_ALL.yaml"
FLAGS = {
    "-h", "--help", "--config", "--gpu", "--no_wandb", "--mode", "--eval_num_codebooks", "--eval_num_embeddings",
    "--rq_ckpt", "--target-kb", "--run", "--set", "--validate",
}  # fmt: skip
# Enough books and sizes for the contract's three evaluations, in two stages a book.
WIDE = {
    "model.n_codebook": 5, "progressive_learning.embedding_schedule": [16, 64, 256],
    "progressive_learning.embedding_stage_epochs": 1, "progressive_learning.warmup_epochs": 1,
    "training.ckpt_freq_epoch": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A work folder after the first command: 2 books, sizes 2 and 4, 2 epochs a stage."""
    work = write_work(tmp_path_factory.mktemp("finished") / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        assert command(TRAIN) == 0
    return work


@pytest.fixture
def work(finished, tmp_path, monkeypatch) -> Path:
    copy = Path(shutil.copytree(finished, tmp_path / "work"))
    monkeypatch.chdir(copy)
    return copy


def failed(line: str, capsys) -> str:
    """The message of a command that ends with 2."""
    capsys.readouterr()
    assert command(line) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told[told.index("error: ") :]


# --- training


def test_training_writes_what_the_contract_names(finished):
    folder = finished / "progressive_rq_logs"
    stages = [f"codebook_{c}_stage_{s}" for c in (0, 1) for s in (0, 1)]
    names = {f"{stage}_{what}.pth" for stage in stages for what in ("epoch_2", "best", "final")}
    found = {path.name for path in (folder / "checkpoints").glob("*.pth")}
    assert found == names | {"global_best.pth", "final.pth"}
    assert all((folder / name).is_file() for name in ("run.json", "metrics.jsonl", "report.html", "config.yaml"))
    assert not list(finished.rglob("*.tmp"))


def test_files_hold_the_books_of_their_moment(finished):
    folder = finished / "progressive_rq_logs" / "checkpoints"

    def points(name: str) -> list[tuple[int, int]]:
        return codec_from(checkpoint.load(folder / name)["codec"]).quantizer.points()

    assert points("codebook_0_stage_0_final.pth") == [(1, 2)]
    assert points("codebook_0_stage_1_best.pth") == [(1, 2), (1, 4)]
    assert points("codebook_1_stage_0_epoch_2.pth") == [(1, 2), (1, 4), (2, 2)]
    assert points("final.pth") == [(1, 2), (1, 4), (2, 2), (2, 4)]


def test_rows_of_a_stage_are_those_of_every_later_one(finished):
    """Prefixes: what a stage finished stays bit for bit, and so do its codes and sums."""
    folder = finished / "progressive_rq_logs" / "checkpoints"
    codecs = [codec_from(checkpoint.load(folder / f"codebook_{c}_stage_{s}_final.pth")["codec"]).quantizer
              for c in (0, 1) for s in (0, 1)]  # fmt: skip
    last = codec_from(checkpoint.load(folder / "final.pth")["codec"]).quantizer
    features = torch.rand(50, 8)
    for quantizer in codecs:
        for n, k in quantizer.points():
            assert quantizer.book_hash(n - 1, k) == last.book_hash(n - 1, k)
            codes = quantizer.encode(features, n, k)
            assert torch.equal(codes, last.encode(features, n, k))
            assert torch.equal(quantizer.decode(codes), last.decode(codes))


def test_the_global_best_records_its_point_and_is_the_best_by_score_and_bits(finished):
    folder = finished / "progressive_rq_logs"
    origin = checkpoint.load(folder / "checkpoints" / GLOBAL_BEST)["origin"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    vals = [row for row in rows if row["split"] == "val"]
    assert len(vals) == 8
    best = max(row["map"] for row in vals)
    assert (origin["score"], origin["metric"]) == (best, "map_3d_moderate_r40")
    assert (origin["n"], origin["k"]) == (1, 2)  # an untrained detector finds nothing anywhere: the fewest bits win


def test_metrics_hold_what_weights_and_biases_is_promised(finished):
    rows = [json.loads(line) for line in (finished / "progressive_rq_logs/metrics.jsonl").read_text().splitlines()]
    place = {"codebook_idx", "stage_idx", "embed_size"}
    train = [row for row in rows if row["split"] == "train"]
    assert all({"loss", "vq", "codebook", "lr"} | place <= row.keys() for row in train)
    assert ["det" in row for row in train] == [False, True] * 4  # the warm-up runs no tail
    val = [row for row in rows if row["split"] == "val"]
    assert all({"map", "loss", "rel_mse", "stage_best", "global_best"} | place <= row.keys() for row in val)
    assert [(row["codebook_idx"], row["stage_idx"], row["embed_size"]) for row in val[::2]] == [
        (0, 0, 2), (0, 1, 4), (1, 0, 2), (1, 1, 4)]  # fmt: skip


@pytest.mark.fault(14)
def test_the_base_is_recorded_and_untouched(finished):
    record = json.loads((finished / "progressive_rq_logs/run.json").read_text())
    base = load_base(finished / "pretrained/epoch_160.pth")
    assert record["base"]["sha256"] == base.sha256
    assert record["base"]["tensors"] == checkpoint.tensors_sha256(base.model.state_dict())
    assert record["data"].endswith("datasets/kitti")


@pytest.mark.readme(
    "python train_eval_rq.py --config exp/split1_ALL.yaml --gpu 0",
    "python train_eval_rq.py --config exp/split1_ALL.yaml --no_wandb",
)
def test_the_other_training_commands_find_the_run_done(work, readme):
    before = (work / "progressive_rq_logs/checkpoints/final.pth").stat().st_mtime_ns
    assert all("is done" in line.run(work) for line in readme)
    assert (work / "progressive_rq_logs/checkpoints/final.pth").stat().st_mtime_ns == before


def test_the_final_checkpoint_is_what_edge_and_server_load(work):
    ends = load_ends(work / "pretrained/epoch_160.pth", work / "progressive_rq_logs/checkpoints/final.pth")
    assert ends.codec.quantizer.points()[-1] == (2, 4)


def test_another_configuration_in_the_same_folder_is_refused(work, capsys):
    told = failed(f"{TRAIN} --set training.init_lr=0.01", capsys)
    assert "training.init_lr: 0.001 -> 0.01" in told and "--run NAME" in told


def test_without_stage_weights_only_the_run_s_files_are_written(work):
    write_config(work, {"logging.save_stage_weights": False, "model.n_codebook": 1})
    assert command(f"{TRAIN} --run few") == 0
    assert {path.name for path in (work / "few/checkpoints").glob("*.pth")} == {"global_best.pth", "final.pth"}


def test_legacy(work):
    write_config(work, {"progressive_learning.enabled": False})
    assert command(TRAIN) == 0
    folder = work / "progressive_rq_logs-legacy" / "checkpoints"
    assert {path.name for path in folder.glob("*.pth")} == {
        "legacy_epoch_2.pth", "legacy_best.pth", "legacy_final.pth", "global_best.pth", "final.pth"}  # fmt: skip
    assert codec_from(checkpoint.load(folder / "final.pth")["codec"]).quantizer.points() == [(1, 4), (2, 4)]


# --- evaluation


@pytest.mark.readme(
    "python train_eval_rq.py --config exp/split1_ALL.yaml",
    """python train_eval_rq.py --config exp/split1_ALL.yaml --mode eval \\
    --eval_num_codebooks 1 --eval_num_embeddings 16 \\
    --rq_ckpt path/to/checkpoint.pth""",
    """python train_eval_rq.py --config exp/split1_ALL.yaml --mode eval \\
    --eval_num_codebooks 3 --eval_num_embeddings 64 \\
    --rq_ckpt path/to/checkpoint.pth""",
    """python train_eval_rq.py --config exp/split1_ALL.yaml --mode eval \\
    --eval_num_codebooks 5 --eval_num_embeddings 256 \\
    --rq_ckpt path/to/checkpoint.pth""",
)
def test_the_contract_s_evaluations(tmp_path, readme):
    training, *evaluations = readme
    work = write_work(tmp_path / "work", WIDE, train=2, val=1)
    training.run(work, "--set", "loss_weights.det_weight=0")
    (work / "path/to").mkdir(parents=True)
    shutil.copy(work / "progressive_rq_logs/checkpoints/final.pth", work / "path/to/checkpoint.pth")
    for line, point in zip(evaluations, ("1x16", "3x64", "5x256"), strict=True):
        assert f"\n{point} " in line.run(work)
        record = json.loads((work / "progressive_rq_logs-eval" / f"checkpoint-{point}.json").read_text())
        assert record["results"]["cells"][0]["name"] == point


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{TRAIN} --mode eval", "needs a checkpoint: --rq_ckpt FILE"),
        (f"{TRAIN} --mode grid", "needs a checkpoint: --rq_ckpt FILE"),
        (f"{TRAIN} --mode eval --rq_ckpt path/to/checkpoint.pth", "path/to/checkpoint.pth does not exist"),
        (f"{TRAIN} --set dataset.dir=elsewhere --run x", "dataset.dir: elsewhere is not a folder"),
        (f"{TRAIN} --set dataset.dir=pretrained --run x", "is no KITTI root"),
        (f"{TRAIN} --set rq_model.latent_shape=[496,432,64] --set rq_model.code_shape=null --run x", "[32, 32, 8]"),
        (f"{TRAIN} --set dataset.num_classes=1 --run x", "the detector has 3 classes"),
        (f"{TRAIN} --set model.n_codebok=1", "did you mean model.n_codebook"),
    ],
)
def test_what_is_wrong_is_told(work, capsys, line, says):
    assert says in failed(line, capsys)
    assert not (work / "x").exists()


def test_a_missing_base_names_both_remedies_and_trains_nothing(work, capsys):
    told = failed(f"{TRAIN} --set model.pretrained_weight=pretrained/none.pth --run x", capsys)
    assert "pretrained/none.pth do not exist" in told
    assert "epoch_160.pth" in told and "train_pointpillars.py" in told
    assert not (work / "x").exists()


def test_a_point_the_checkpoint_does_not_hold_names_the_newest_that_does(work, capsys):
    folder = "progressive_rq_logs/checkpoints"
    point = "--mode eval --eval_num_codebooks 2 --eval_num_embeddings 4"
    told = failed(f"{TRAIN} {point} --rq_ckpt {folder}/codebook_0_stage_1_final.pth", capsys)
    assert "1-1" not in told and "1 codebook(s) with 2, 4 embeddings" in told
    assert f"{folder}/final.pth holds it" in told
    told = failed(f"{TRAIN} --mode eval --eval_num_codebooks 7 --rq_ckpt {folder}/final.pth", capsys)
    assert f"No checkpoint in {folder} does" in told


@pytest.mark.fault(8, 10)
def test_foreign_and_misplaced_checkpoints_are_refused(work, capsys):
    point = "--mode eval --eval_num_codebooks 1 --eval_num_embeddings 2"
    told = failed(f"{TRAIN} {point} --rq_ckpt pretrained/epoch_160.pth", capsys)
    assert "pretrained/epoch_160.pth is no RQ checkpoint" in told
    (work / "page.pth").write_text("<!DOCTYPE html>")
    assert "an HTML page" in failed(f"{TRAIN} {point} --rq_ckpt page.pth", capsys)
    other = Grid((0.0, -5.12, -3.0, 5.12, 5.12, 1.0), (0.32, 0.32, 4.0), max_points=8)
    save_base(work / "other.pth", PointPillars(other, widths=Widths(8, (8, 8, 8), (1, 0, 0), 8)), step=0)
    told = failed(f"{TRAIN} {point} --rq_ckpt progressive_rq_logs/checkpoints/final.pth "
                  "--set model.pretrained_weight=other.pth --set rq_model.latent_shape=null "
                  "--set rq_model.code_shape=null", capsys)  # fmt: skip
    assert "32 x 32 cells" in told and "32 x 16" in told


@pytest.mark.fault(10)
def test_another_base_is_warned_of(work, capsys):
    torch.manual_seed(9)
    save_base(work / "again.pth", PointPillars(GRID, widths=Widths(8, (8, 8, 8), (1, 0, 0), 8)), step=0)
    point = "--mode eval --eval_num_codebooks 1 --eval_num_embeddings 2"
    assert command(f"{TRAIN} {point} --rq_ckpt progressive_rq_logs/checkpoints/final.pth "
                   "--set model.pretrained_weight=again.pth") == 0  # fmt: skip
    assert "another base detector" in capsys.readouterr().err


# --- flags, validation, W&B


def test_the_flags_are_these_and_no_others():
    actions = rq_command.parser()._actions
    assert {flag for action in actions for flag in action.option_strings} == FLAGS


@pytest.mark.parametrize("argv", [["--mode", "test"], ["--gpu", "one"], ["--epochs", "3"], ["extra"]])
def test_bad_flags_exit_with_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        rq_command.main(argv)
    assert end.value.code == 2
    assert "usage: train_eval_rq.py" in capsys.readouterr().err


@pytest.mark.fault(15)
def test_validate_lists_every_problem(work, capsys):
    assert command(f"{TRAIN} --validate") == 0
    scans = sorted((work / "datasets/kitti/training/velodyne").glob("*.bin"))
    scans[0].write_bytes(b"\0" * 7)
    (work / "datasets/kitti/training/label_2" / f"{scans[1].stem}.txt").write_text("Car 0\n")
    told = failed(f"{TRAIN} --validate", capsys)
    assert scans[0].name in told and f"{scans[1].stem}.txt" in told


class FakeWandb(types.ModuleType):
    """Stands for the package: records what it is told."""

    def __init__(self, key: str | None):
        super().__init__("wandb")
        self.api, self.errors = argparse.Namespace(api_key=key), argparse.Namespace(Error=RuntimeError)
        self.settings, self.records, self.finished = {}, [], False

    def init(self, **settings):
        self.settings = settings
        return self

    def define_metric(self, *args, **more): ...

    def log(self, record):
        self.records.append(record)

    def finish(self):
        self.finished = True


@pytest.mark.parametrize(("key", "mode"), [("k", "online"), (None, "offline")])
def test_wandb_gets_the_contract_s_project_and_records(work, capsys, monkeypatch, key, mode):
    fake = FakeWandb(key)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    write_config(work, {"model.n_codebook": 1, "progressive_learning.embedding_schedule": [2]})
    assert command(f"{TRAIN} --run w") == 0
    assert (fake.settings["project"], fake.settings["mode"]) == ("pointpillars-rq-progressive", mode)
    assert fake.finished
    names = {name for record in fake.records for name in record}
    assert {"train/loss", "train/vq", "train/codebook", "train/det", "train/lr", "train/codebook_idx",
            "train/stage_idx", "train/embed_size", "val/map", "val/loss", "val/stage_best"} <= names  # fmt: skip
    assert ("no login" in capsys.readouterr().out) == (mode == "offline")
