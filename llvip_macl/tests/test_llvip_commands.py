"""The four training commands of the README (A to D), word for word, in a copy of the project with a tiny detector."""

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from shared.testing.injections import Child, metrics_of
from shared.testing.readme_commands import lines_of

PROJECT = Path(__file__).parents[1]
# A detector of 8 to 64 channels; validation and its pictures at the end only.
TINY_MODEL = """
_base_ = "./faster_rcnn_r18_small.py"
model = dict(backbone=dict(base_channels=8, depth=18, frozen_stages=-1, init_cfg=None),
             neck=dict(in_channels=[8, 16, 32, 64]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of configs/ whose R50 is tiny, in which commands run."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "configs", folder / "configs")
    bases = folder / "configs/_base_"
    (bases / "models/tiny.py").write_text(TINY_MODEL)
    for config in (folder / "configs/llvip").glob("*.py"):
        text = config.read_text().replace("faster_rcnn_r50_fpn.py", "tiny.py")
        config.write_text(text + _overrides(text))
    for data in (bases / "datasets").glob("*.py"):
        text = data.read_text().replace("(640, 640)", "(160, 128)").replace("(640, 512)", "(160, 128)")
        data.write_text(text.replace("num_workers=4", "num_workers=0").replace("num_workers=2", "num_workers=0"))
    return folder


def _overrides(text):
    """What the tiny runs change in a stage's own file (its bases are asked first)."""
    if "_base_ = [" not in text:
        return ""
    return ("\nembedded = dict(pairs=(4, 4), size_hw=(128, 160))\ntrain_cfg = dict(val_interval=100)\n"
            "default_hooks = dict(logger=dict(interval=1))\n")  # fmt: skip


def run(project, words, code=0, which="train"):
    import llvip_macl.register  # noqa: F401 - once, here: every child is a fork
    from llvip_macl.runtime import test_command, train_command

    log = project / f"log{len(list(project.glob('log*')))}.txt"
    main = train_command.main if which == "train" else test_command.main
    ended = Child(shlex.split(words), main, log, lambda: os.chdir(project), {}).wait(300)
    assert ended.code == code, ended.output[-4000:]
    return ended.output


@pytest.fixture(scope="module")
def stage1(project):
    """Command D in an empty folder: it starts from the beginning."""
    import llvip_macl.register  # noqa: F401 - once, here: every child is a fork

    (d,) = lines_of(test_d_again_says_that_nothing_is_left)
    return d.run(project)


def test_d_starts_warns_once_of_amp_and_leaves_the_named_files(project, stage1):
    folder = project / "work_dirs/stage1"
    names = {path.name for path in folder.iterdir()}
    assert {f"epoch_{n}.pth" for n in range(1, 13)} <= names
    assert {"tensorboard_logs", "run.json", "metrics.jsonl", "best.pth"} <= names
    assert any(name.startswith("best_epoch12_loss") for name in names)
    assert stage1.count("mixed precision needs a CUDA device") == 1
    assert stage1.count("EMBEDDED WORLD") == 1
    assert "the warm-up takes 500 iterations" in stage1
    assert "Could not import OneDL" not in stage1
    assert json.loads((folder / "run.json").read_text())["data"] == "embedded"
    assert list((project / "work_dirs/tsne_vis").glob("tsne_epoch*.png"))
    assert list((project / "work_dirs/metrics_logs").glob("run_*.zip"))
    assert "state_dict" in torch.load(folder / "epoch_7.pth", weights_only=True)


@pytest.mark.readme("""python tools/train.py configs/llvip/stage1_llvip_pretrain.py \\
    --work-dir work_dirs/stage1 \\
    --resume \\
    --amp""")
def test_d_again_says_that_nothing_is_left(project, stage1, readme):
    (d,) = readme
    output = d.run(project)
    assert "nothing is left to do" in output
    assert "train_cfg.max_epochs" in output


@pytest.mark.readme("""python tools/train.py configs/llvip/stage1_llvip_pretrain.py \\
   --work-dir work_dirs/stage1_tune \\
   --cfg-options train_cfg.max_epochs=24 \\
      optim_wrapper.optimizer.type=AdamW \\
      optim_wrapper.optimizer.lr=0.0005 \\
      param_scheduler[1].milestones='[16,22]' \\
      train_dataloader.batch_size=4""")
def test_a_moves_the_schedule_and_drops_nothing_silently(project, stage1, readme):
    (a,) = readme
    output = a.run(project)
    assert "param_scheduler.1.end: 12 -> 24" in output
    rows = [row for row in metrics_of(project / "work_dirs/stage1_tune") if row["split"] == "train"]
    assert len(rows) == 24  # 4 pairs in batches of 4
    ramp = [row["lr"] / (0.001 + 0.999 * row["step"] / 499) for row in rows]
    assert ramp[16] / ramp[14] < 0.2  # the first milestone
    assert ramp[23] / ramp[20] < 0.2  # the second


@pytest.mark.readme("""python tools/train.py configs/llvip/stage2_kaist_domain_ft_nodomain.py \\
    --work-dir work_dirs/stage2 \\
    --cfg-options load_from=work_dirs/stage1/best_epoch8_loss0.1140.pth \\
    --amp""")
def test_b_lists_the_best_files_and_then_starts_from_one(project, stage1, readme):
    (b,) = readme
    folder = project / "work_dirs/stage1"
    assert "best_epoch12_loss" in b.run(project, code=2)
    best = (folder / "best.pth").resolve()
    shutil.copy(best, folder / "best_epoch8_loss0.1140.pth")
    shutil.copy(f"{best}.json", folder / "best_epoch8_loss0.1140.pth.json")
    output = b.run(project)
    assert "missing: roi_head.dhn" in output
    assert "frozen: backbone, backbone_ir" in output
    trained, frozen = (torch.load(path, weights_only=True)["state_dict"]
                       for path in (project / "work_dirs/stage2/epoch_12.pth", best))  # fmt: skip
    same = [name for name in frozen if name.startswith(("backbone.", "backbone_ir."))]
    assert same
    assert all(torch.equal(trained[name], frozen[name]) for name in same)
    assert not torch.equal(trained["roi_head.bbox_head.fc_cls.weight"], frozen["roi_head.bbox_head.fc_cls.weight"])


@pytest.mark.slow
@pytest.mark.readme("""python tools/train.py configs/llvip/stage2_kaist_domain_ft_nodomain.py \\
    --work-dir work_dirs/stage2 \\
    --cfg-options load_from=work_dirs/stage1/epoch_7.pth \\
    --amp""")
def test_c_starts_from_an_epoch(project, stage1, readme):
    (c,) = readme
    assert "weights of work_dirs/stage1/epoch_7.pth" in c.run(project)


def test_the_test_command_prints_and_writes_results(project, stage1):
    output = run(project, "configs/llvip/stage1_llvip_pretrain.py work_dirs/stage1/best.pth --work-dir work_dirs/test",
                 which="test")  # fmt: skip
    assert "coco/bbox_mAP" in output
    record = json.loads((project / "work_dirs/test/results_best.json").read_text())
    assert record["data"] == "embedded"
    assert "coco/bbox_mAP" in record["metrics"]
    found = json.loads((project / "work_dirs/test/detections_best.json").read_text())
    assert all(set(one) == {"image_id", "image", "category_id", "bbox", "score"} for one in found)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("configs/llvip/stage1_llvip_pretain.py", "stage1_llvip_pretrain.py"),
        ("configs/llvip/stage1_llvip_pretrain.py --cfg-options train_cfg.max_epoch=3", "train_cfg.max_epochs"),
        ("configs/llvip/stage1_llvip_pretrain.py --cfg-options data_root=missing", "is not a folder"),
        ("configs/llvip/stage1_llvip_pretrain.py --cfg-options model.neck.num_outs=6", "128"),
        ("configs/llvip/stage1_llvip_pretrain.py --resume nothing.pth", "is not a file"),
    ],
)
def test_mistakes_are_told_without_a_traceback(project, words, told):
    output = run(project, words, code=2)
    assert told in output
    assert "Traceback" not in output


def test_flags_are_mmdets():
    from llvip_macl.runtime import test_command, train_command

    def flags(parser):
        return {option for action in parser._actions for option in action.option_strings}

    assert flags(train_command.parser()) >= {
        "--work-dir", "--amp", "--auto-scale-lr", "--resume", "--cfg-options", "--launcher", "--local-rank"
    }  # fmt: skip
    assert flags(test_command.parser()) >= {
        "--work-dir", "--out", "--show", "--show-dir", "--wait-time", "--cfg-options", "--launcher", "--tta"
    }  # fmt: skip
