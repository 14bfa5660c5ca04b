"""tools/test.py: what it says of its weights and pairs, and the folder it leaves to a later training."""

import json

import pytest
from llvip_samples import nothing_to_train


def test_weights_chosen_on_the_tested_pairs_are_told_as_such(trained):
    best = trained.run / "best.pth"
    metric = json.loads(best.resolve().with_suffix(".pth.json").read_text())["extra"]["metric"]
    assert f"by {metric} on these very pairs" in trained.judge(best)
    record = json.loads((trained.folder / "work_dirs/test/results_best.json").read_text())
    assert record["chosen_on_these_pairs_by"] == metric != "loss"
    assert [one["ann_file"] for one in record["test_sets"]] == ["imageSets/test-all-20.txt"]


def test_the_last_epoch_was_not_chosen(trained):
    output = trained.judge(trained.run / "epoch_1.pth")
    assert "these very pairs" not in output
    assert f"weights {trained.run / 'epoch_1.pth'}, pairs imageSets/test-all-20.txt of " in output


@pytest.mark.parametrize(
    ("metric", "validated_on", "told"), [("coco/bbox_mAP", "test", True), ("loss", "test", False),
                                         ("coco/bbox_mAP", "val", False)],
)  # fmt: skip
def test_chosen_by_the_loss_or_on_other_pairs_is_no_matter(tmp_path, metric, validated_on, told):
    from mmengine.config import Config

    from llvip_macl.runtime.test_command import chosen_on_test
    from shared import checkpoint

    path = tmp_path / "best_epoch1_loss0.5000.pth"
    checkpoint.save(path, {"state_dict": {}}, step=1, pointers=(), extra={"metric": metric})
    cfg = Config({f"{name}_dataloader": {"dataset": {"split": split}}
                  for name, split in (("val", validated_on), ("test", "test"))})  # fmt: skip
    assert chosen_on_test(cfg, str(path)) == (metric if told else None)
    path.with_name(f"{path.name}.json").unlink()
    assert chosen_on_test(cfg, str(path)) is None


def test_a_training_may_begin_where_only_a_test_wrote(trained, work):
    work.judge(trained.run / "epoch_1.pth", run=work.run.name)
    work.train("train_cfg.max_epochs=1", resume=False, inject=nothing_to_train)
    assert (work.run / "results_epoch_1.json").is_file()
    assert json.loads((work.run / "run.json").read_text())["stages"]["train"]["done"]


def test_a_test_does_not_hand_over_a_folder_of_something_else(trained, work):
    work.run.mkdir(parents=True)
    (work.run / "thesis.tex").touch()
    work.judge(trained.run / "epoch_1.pth", run=work.run.name)
    work.refused("is not a run's folder", resume=False)
