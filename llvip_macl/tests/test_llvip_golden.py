"""What a seed decides: the same 20 losses again, the committed curve; frozen backbones; batches without supervision."""

import json
from pathlib import Path

import pytest
import torch
from llvip_samples import PROJECT, Work, rows

from shared import checkpoint
from shared.testing.faults import hold_to_golden

GOLDEN = Path(__file__).parent / "golden_llvip.json"
STEPS = 20
# The demo's own model and pictures; nothing is validated or saved.
SMALL = """
_base_ = {base!r}
embedded = dict(pairs=({pairs}, 1), parent={data!r})
train_dataloader = dict(batch_size=2, num_workers=0)
train_cfg = dict(max_epochs=1, val_begin=100)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=-1, save_last=False, save_best=None))
metrics_export = dict(enable=False)
"""
QUICK = ("train_cfg.max_epochs=7", "train_cfg.val_begin=100", "train_cfg.checkpoint_interval_iters=0",
         "default_hooks.checkpoint.interval=-1", "default_hooks.checkpoint.save_last=False",
         "default_hooks.checkpoint.save_best=None")  # fmt: skip


def losses(run):
    return [row["loss"] for row in rows(run, "train")][:STEPS]


# --- a seed -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(13)
def test_a_seed_repeats_itself_and_another_differs(data, tmp_path):
    curves = []
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        work = Work(tmp_path / name, data)
        work.train(*QUICK, f"randomness.seed={seed}")
        curves.append(losses(work.run))
    assert len(curves[0]) == STEPS
    assert curves[0] == curves[1]
    assert all(a != b for a, b in zip(curves[0], curves[2], strict=True))


@pytest.mark.fault(13)
@pytest.mark.parametrize("stage", ["stage1", pytest.param("stage2", marks=pytest.mark.slow)])
def test_the_first_20_steps_are_those_of_the_golden_curve(stage, data, tmp_path):
    work = Work(tmp_path / stage, data)
    base = str(PROJECT / f"configs/embedded/{stage}.py")
    work.config.write_text(SMALL.format(base=base, data=str(data), pairs={"stage1": 40, "stage2": 50}[stage]))
    work.train(inject=lambda: watch_backbones(tmp_path / "frozen.json") if stage == "stage2" else None)
    if stage == "stage2":
        the_backbones_are_frozen(json.loads((tmp_path / "frozen.json").read_text()))
    hold_to_golden(GOLDEN, stage, losses(work.run))


def watch_backbones(path):
    """Write down hashes of both backbones before and after training, and how many of their values have moments."""
    from llvip_macl.runtime.loop import PairedEpochLoop

    original = PairedEpochLoop.run

    def hashes(self):
        return [checkpoint.tensors_sha256(getattr(self.runner.bare, name).state_dict()) for name in STREAMS]

    def run(self):
        before = hashes(self)
        model = original(self)
        held = self.runner.optim_wrapper.optimizer.state
        moments = sum(p in held for name in STREAMS for p in getattr(self.runner.bare, name).parameters())
        trained = sum(p in held for p in self.runner.bare.roi_head.parameters())
        note = {"before": before, "after": hashes(self), "moments": moments, "trained": trained}
        path.write_text(json.dumps(note))
        return model

    PairedEpochLoop.run = run


STREAMS = ("backbone", "backbone_ir")


def the_backbones_are_frozen(note):
    """Weights and BatchNorm statistics, bit for bit; the rest of the model was trained."""
    assert note["before"] == note["after"]
    assert note["before"][0] != note["before"][1]
    assert note["moments"] == 0
    assert note["trained"] > 0


# --- nothing to learn from --------------------------------------------------------------------------------------------


def nobody(samples):
    for sample in samples:
        ignore(sample, slice(0, 0))


def ignore(sample, kept):
    """Keep some persons; the others are ignored, or nobody if there were none."""
    sample.gt_instances = sample.gt_instances[kept]


def all_ignored(samples):
    for sample in samples:
        sample.ignored_instances = sample.gt_instances
        ignore(sample, slice(0, 0))


def one_person(samples):
    nobody(samples[1:])
    ignore(samples[0], slice(0, 1))


def everything_outside(samples):
    """Boxes that no anchor and no pixel of the image touches."""
    for sample in samples:
        sample.gt_instances.bboxes += 500.0


EMPTY = {  # name -> (what is done to the batch, changes of the model, rows that MACL compares)
    "no person in the batch": (nobody, {}, 0),
    "all persons ignored": (all_ignored, {}, 0),
    "one RoI": (one_person, {"roi_head__macl_head__roi_source": "gt"}, 1),
    "everything outside": (everything_outside, {}, None),
}


@pytest.mark.fault(12)
@pytest.mark.parametrize("case", EMPTY)
@pytest.mark.parametrize("pairs", [2, 1])
def test_without_supervision_losses_and_gradients_are_finite_and_complete(case, pairs):
    from llvip_model_samples import batch, small_model

    done, changes, wanted = EMPTY[case]
    model = small_model(roi_head__dhn={"type": "DHNSampler", "queue_size": 16, "top_k": 4}, **changes)
    inputs, samples = batch(pairs)
    done(samples)
    for _ in range(2):  # the second time, queues hold what the first one left
        model.zero_grad(set_to_none=True)
        losses = model.loss(inputs, samples)
        total, values = model.parse_losses(losses)
        total.backward()
        model.after_backward()
    assert torch.isfinite(total)
    assert wanted is None or int(values["macl_rows"]) == wanted
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    contrastive = {name: grad for name, grad in trained.items() if ".macl_head." in name}
    assert contrastive
    assert all(grad is not None for grad in contrastive.values()), "the zero loss is not attached"
    assert all(bool(torch.isfinite(grad).all()) for grad in trained.values() if grad is not None)
    assert float(trained["rpn_head.rpn_cls.weight"].abs().sum()) > 0  # background is learnt all the same


@pytest.mark.fault(12)
def test_frames_without_persons_train_one_by_one(data, tmp_path):
    """LLVIP frames without any box, in batches of one pair, learn the background; MACL's loss is 0, and finite."""
    from llvip_pair_samples import llvip_tree, voc

    root = llvip_tree(tmp_path / "root", train=2, test=2, boxes=())
    (root / "Annotations/000901.xml").write_text(voc([(10, 8, 30, 40)]))
    work = Work(tmp_path / "one", data, base="configs/embedded/stage1.py")
    output = work.train(f"data_root={root}", "train_dataloader.batch_size=1", "train_cfg.max_epochs=1")
    assert "Traceback" not in output
    steps = rows(work.run, "train")
    assert len(steps) == 2
    assert all(row["macl_rows"] == 0 and row["loss_macl"] == 0 for row in steps)
