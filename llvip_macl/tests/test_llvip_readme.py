"""The README's other lines, run as they stand on a few drawn pairs (its commands A to D: test_llvip_commands.py; the
comparison: test_llvip_experiments.py)."""

import json
import shutil
from pathlib import Path

import pytest
from llvip_samples import warm
from test_llvip_commands import project  # noqa: F401 - a copy of configs/ whose R50 is tiny
from test_llvip_kaist_mr import small_truth

from llvip_macl.world import WorldSpec, write_world

SIZE_HW = (64, 80)
EMBEDDED = "configs/embedded/stage1.py"


@pytest.fixture(scope="module")
def folder(project) -> Path:  # noqa: F811
    """Where the lines are started, with the data roots that they name."""
    warm()
    for name, spec in (("LLVIP", WorldSpec("llvip", (4, 4), SIZE_HW)), ("KAIST", WorldSpec("kaist", (4, 4), SIZE_HW))):
        write_world(project / "data" / name, spec, workers=0)
    return project


def left(folder: Path, names: str) -> list[str]:
    """Those of the files that are not there."""
    return [name for name in names.split() if not list(folder.glob(name))]


@pytest.mark.readme(
    "python -m llvip_macl.data.validate data/LLVIP --layout llvip",
    "python tools/analysis_tools/browse_dataset.py configs/llvip/stage1_llvip_pretrain.py --number 20"
    " --cfg-options data_root=data/LLVIP",
    "python tools/train.py configs/llvip/stage1_llvip_pretrain.py --work-dir work_dirs/stage1"
    " --cfg-options data_root=data/LLVIP",
    "python tools/train.py configs/llvip/stage2_kaist_domain_ft_nodomain.py --work-dir work_dirs/stage2"
    " --cfg-options data_root=data/KAIST load_from=work_dirs/stage1/best.pth",
    "python tools/test.py configs/llvip/stage2_kaist_domain_ft_nodomain.py work_dirs/stage2/best.pth"
    " --cfg-options data_root=data/KAIST",
    "python demo/pair_demo.py my/visible my/infrared --config configs/llvip/stage2_kaist_domain_ft_nodomain.py"
    " --checkpoint work_dirs/stage2/best.pth",
)
def test_from_the_data_roots_to_pairs_of_ones_own(readme, folder):
    check, browse, stage_1, stage_2, judge, own = readme
    check.run(folder)
    browse.run(folder)
    assert len(list((folder / "browse").glob("*.png"))) == 4
    for line, name in ((stage_1, "stage1"), (stage_2, "stage2")):
        assert "EMBEDDED WORLD" not in line.run(folder, "train_cfg.max_epochs=1")  # the root that is named
        assert not left(folder / "work_dirs" / name, """run.json metrics.jsonl log.txt report.html alignment.json
            tensorboard_logs epoch_1.pth best_epoch1_loss*.pth best.pth last_checkpoint */*.log""")  # fmt: skip
    assert not left(folder, "work_dirs/tsne_vis/tsne_epoch*.png work_dirs/metrics_logs/run_*.zip")
    assert "kaist/MR_reasonable_all" in judge.run(folder)
    assert (folder / "work_dirs/stage2/figures").is_dir()
    video = folder / "data/KAIST/images/set06/V000"
    for half, source in (("visible", "visible"), ("infrared", "lwir")):
        shutil.copytree(video / source, folder / "my" / half)
    own.run(folder)
    assert (folder / "work_dirs/pairs/detections.json").is_file()


@pytest.mark.readme("python tools/train.py configs/llvip/stage1_llvip_pretrain.py")
def test_the_shortest_training(readme, folder):
    (line,) = readme
    assert "EMBEDDED WORLD" in line.run(folder, "--cfg-options", "train_cfg.max_epochs=1")
    assert not left(folder / "work_dirs/stage1_llvip_pretrain", "run.json best.pth")


@pytest.mark.readme(
    "python tools/train.py configs/embedded/stage1.py --work-dir work_dirs/embedded_stage1",
    "python tools/test.py configs/embedded/stage1.py work_dirs/embedded_stage1/best.pth"
    " --work-dir work_dirs/embedded_test --show-dir drawn",
)
def test_the_small_detector_is_trained_and_judged(readme, folder):
    training, judge = readme
    small = ("--cfg-options", "embedded.pairs=(8,3)", "embedded.size_hw=(64,96)", "train_dataloader.num_workers=0")
    training.run(folder, *small, "train_cfg.max_epochs=1")
    judge.run(folder, *small)
    assert not left(folder / "work_dirs", "embedded_stage1/epoch_1.pth embedded_test/results_best.json")
    assert list((folder / "work_dirs/embedded_test").rglob("drawn*/*.jpg"))


@pytest.mark.slow
@pytest.mark.readme(
    "python demo.py",
    "python demo/pair_demo.py visible.jpg infrared.jpg --checkpoint work_dirs/demo/stage2/epoch_4.pth"
    " --out work_dirs/pairs",
)
def test_the_demo_and_a_pair_behind_it(readme, folder, tmp_path):
    demo, pair = readme
    demo.run(tmp_path, "--epochs", "1", "4", "--cfg-options", "embedded.pairs=(8,12)", "embedded.size_hw=(96,128)")
    assert not left(tmp_path / "work_dirs/demo", "report.html pairs.png alignment.png tsne.png test/figures/*fppi*.png")
    for half, source in (("visible", "visible"), ("infrared", "lwir")):
        image = next((folder / "data/KAIST/images").rglob(f"{source}/*.jpg"))
        shutil.copy(image, tmp_path / f"{half}.jpg")
    pair.run(tmp_path)
    assert not left(tmp_path / "work_dirs/pairs", "visible.png detections.json")


@pytest.mark.readme("python verify_stage1.py", "python test_forward_kaist.py", "python grad_flow_check.py")
def test_the_self_checks(readme, folder):
    """Of the small detector: R50 takes minutes."""
    build, forward, flow = readme
    assert "OK:" in build.run(folder, EMBEDDED, "--size", "96", "128")
    small = ("--cfg-options", "embedded.pairs=(3,1)", "embedded.size_hw=(96,128)")
    assert "OK:" in forward.run(folder, "configs/embedded/stage2.py", *small)
    assert "OK:" in flow.run(folder, EMBEDDED, *small)


@pytest.mark.readme(
    "python -m llvip_macl.doctor",
    "python -m llvip_macl.evaluation.kaist_mr KAIST_annotation.json MLPD_result.txt --protocol mlpd_script",
    "python -m llvip_macl.world data/world --layout kaist --train 200 --test 60 --sheet look.png",
)
def test_the_tools_around_it(readme, tmp_path):
    doctor, miss_rate, world = readme
    assert "family: onedl" in doctor.run(tmp_path)
    (tmp_path / "KAIST_annotation.json").write_text(json.dumps(small_truth()))
    (tmp_path / "MLPD_result.txt").write_text("1,100,100,40,100,0.9\n2,300,100,40,100,0.8\n")
    assert "mlpd_script" in miss_rate.run(tmp_path)
    world.run(tmp_path, "--train", "2", "--test", "2", "--size", "64", "80", "--workers", "0")
    assert not left(tmp_path, "look.png data/world/KAIST_annotation.json")


@pytest.mark.slow
@pytest.mark.readme(
    "python benchmarks/step.py --size r50", "python benchmarks/loader.py", "python benchmarks/miss_rate.py"
)
def test_the_benchmarks(readme, folder, tmp_path):
    step, loader, miss_rate = readme
    out = ("--quick", "--out", "found.json")
    step.run(tmp_path, *out)
    loader.run(tmp_path, *out, "--cfg-options", "embedded.pairs=(48,2)", f"embedded.parent={tmp_path}")
    miss_rate.run(tmp_path, *out, "--drawn")
