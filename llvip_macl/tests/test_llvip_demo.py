"""The demo: what it shows, what it reads, and (slow) the whole of it on a few pairs."""

import json

import pytest

from llvip_macl.demo_command import CONFIGS, Finished, last_checkpoint, main, one_of_each_scene, parse, write_report
from shared.errors import CheckpointError


def record(name, *ignored):
    return {"pair_name": name, "instances": [{"ignore_flag": flag} for flag in ignored]}


def test_pairs_are_the_first_with_a_person_of_each_street_spread_over_them():
    records = [
        record("set06/V000/I1"), record("set06/V000/I2", 1), record("set06/V000/I3", 0), record("set06/V000/I4", 0),
        record("set07/V000/I1", 0), record("set08/V000/I1", 1), record("set09/V000/I1", 1, 0),
    ]  # fmt: skip
    names = [one["pair_name"] for one in one_of_each_scene(records, 9)]
    assert names == ["set06/V000/I3", "set07/V000/I1", "set09/V000/I1"]
    assert [one["pair_name"] for one in one_of_each_scene(records, 2)] == ["set06/V000/I3", "set07/V000/I1"]
    assert one_of_each_scene([], 4) == []


def test_the_last_checkpoint_is_the_one_the_run_names(tmp_path):
    with pytest.raises(CheckpointError, match="no finished training"):
        last_checkpoint(tmp_path)
    (tmp_path / "last_checkpoint").write_text("/elsewhere/epoch_3.pth\n")
    assert last_checkpoint(tmp_path) == tmp_path / "epoch_3.pth"


def test_the_stages_are_configs_of_this_package():
    assert all(path.is_file() for path in CONFIGS.values()) and parse([]).epochs is None


def test_results_on_drawn_scenes_do_not_name_real_labels(tmp_path):
    from llvip_macl.demo_command import test_set
    from llvip_macl.inference import model_config

    options = ["embedded.pairs=(1,2)", "embedded.size_hw=(96,128)", f"embedded.parent={tmp_path}"]
    dataset = test_set(model_config(str(CONFIGS["stage2"]), options))
    assert "embedded" in dataset.metainfo["label_version"] and len(dataset) == 2


def finished(folder):
    for name in ("stage1", "stage2", "test"):
        (folder / name).mkdir()
    (folder / "stage2/last_checkpoint").write_text("epoch_4.pth")
    metrics = {"kaist/MR_reasonable_all": 41.25, "coco/bbox_mAP": 0.2, "coco/bbox_mAP_50": 0.5}
    (folder / "test/results_epoch_4.json").write_text(json.dumps({"metrics": metrics}))
    losses = {"loss": 1.0, "loss_macl": 0.5, "loss_cls": 0.2, "loss_bbox": 0.3}
    for stage in ("stage1", "stage2"):
        (folder / stage / "metrics.jsonl").write_text(json.dumps({"step": 1, "split": "train", **losses}) + "\n")
    return Finished(folder, {"stage 1": 10.0, "stage 2": 5.0, "test": 1.0})


def test_the_page_says_that_the_data_are_drawn_and_has_the_scores(tmp_path):
    page = write_report(finished(tmp_path), [], 20.0).read_text()
    assert "Embedded data" in page and "41.2 %" in page and "50.0 %" in page and "stage 1 10 s" in page
    assert "last epoch (epoch_4.pth)" in page


@pytest.mark.slow
def test_the_whole_demo_on_a_few_pairs_and_again(tmp_path, capfd):
    options = ["embedded.pairs=(8,12)", "embedded.size_hw=(96,128)", f"embedded.parent={tmp_path / 'worlds'}"]
    argv = ["--work-dir", str(tmp_path / "demo"), "--epochs", "1", "1", "--cfg-options", *options]
    assert main(argv) == 0
    for name in ("report.html", "pairs.png", "alignment.png", "tsne.png", "test/figures/kaist_fppi_test.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 1000
    weights = (tmp_path / "demo/stage2/epoch_1.pth").read_bytes()
    assert main(argv) == 0 and "nothing is left to do" in capfd.readouterr().out
    assert (tmp_path / "demo/stage2/epoch_1.pth").read_bytes() == weights
