"""The pretrainer: Phase 1 equals R-MAE bit for bit, exact resume, and traps T8, T9, T13, T15, T20, T33."""

import ast
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sparse_cases import Cloud, cloud, empty_cloud, half, toy_backbone

import voxel_mae
from shared.errors import DataError
from voxel_mae import mlfr
from voxel_mae.pretraining import Pretrainer, PretrainSettings
from voxel_mae.teacher import TeacherSettings

R_MAE = PretrainSettings()
PHASE_1 = PretrainSettings({"occupancy": 1.0, "mlfr": 0.0, "voxel": 0.0, "frame": 0.0}, TeacherSettings(0.9))
PHASE_2 = PretrainSettings({"occupancy": 1.0, "mlfr": 1.0, "voxel": 0.6, "frame": 0.3}, TeacherSettings(0.9))


def build(settings: PretrainSettings = PHASE_2) -> Pretrainer:
    return Pretrainer(toy_backbone(), settings, total_steps=20)


def optimizer_of(pretrainer: Pretrainer) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in pretrainer.parameters() if p.requires_grad], 0.01)


def train(pretrainer: Pretrainer, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    curve = []
    for step in steps:
        optimizer.zero_grad()
        losses = pretrainer(cloud(200, seed=step), half(200, step)).losses
        total = sum(pretrainer.settings.active[name] * loss for name, loss in losses.items())
        total.backward()
        optimizer.step()
        pretrainer.after_step()
        curve.append(total.item())
    return curve


def digest(module: torch.nn.Module) -> str:
    """Of parameters, gradients and buffers."""
    text = hashlib.sha256()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        text.update(name.encode() + tensor.detach().numpy().tobytes())
        text.update(b"none" if tensor.grad is None else tensor.grad.numpy().tobytes())
    return text.hexdigest()


def test_phase_1_at_weight_0_equals_plain_r_mae_bit_for_bit():
    plain, phase_1, phase_2 = (build(s) for s in (R_MAE, PHASE_1, PHASE_2))
    curves = [train(one, optimizer_of(one), range(3)) for one in (plain, phase_1)]
    assert curves[0] == curves[1]
    assert digest(plain.backbone_3d) == digest(phase_1.backbone_3d)
    assert digest(plain.occupancy) == digest(phase_1.occupancy)
    train(phase_2, optimizer_of(phase_2), range(1))
    assert digest(plain.backbone_3d) != digest(phase_2.backbone_3d)


def test_every_variant_starts_from_the_same_student():
    assert len({digest(build(s).backbone_3d) for s in (R_MAE, PHASE_1, PHASE_2)}) == 1
    assert len({digest(build(s).occupancy) for s in (R_MAE, PHASE_1, PHASE_2)}) == 1


def test_phase_1_extracts_teacher_features_and_reports_them():
    names = build(PHASE_1)(cloud(), half(300)).diagnostics
    assert {"similarity_conv1", "similarity_conv4", "occupancy_excess", "occupancy_reached"} <= set(names)
    assert set(build(PHASE_1)(cloud(), half(300)).losses) == {"occupancy"}
    assert not any(value.requires_grad for value in names.values())


def test_terms_of_weight_0_are_not_built():
    part = build(replace(PHASE_2, weights={"occupancy": 1.0, "voxel": 0.6}))
    assert part.mlfr is None
    assert part.frame is None
    assert set(part(cloud(), half(300)).losses) == {"occupancy", "voxel"}


@pytest.mark.parametrize("term", ["occupancy", "mlfr", "voxel", "frame"])
def test_each_term_alone_moves_the_student(term):
    pretrainer = build(replace(PHASE_2, weights={term: 1.0}))
    pretrainer(cloud(seed=5), half(300, 5))
    pretrainer.after_step()  # the queues hold something
    pretrainer(cloud(), half(300)).losses[term].backward()
    assert pretrainer.backbone_3d.conv_input[0].weight.grad.abs().sum() > 0


def test_student_and_teacher_differ_in_input_and_after_a_step_in_weights():
    pretrainer, seen = build(), {}
    for name, encoder in (("student", pretrainer.backbone_3d), ("teacher", pretrainer.teacher.encoder)):
        encoder.conv_input.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0].indices}))
    keep, optimizer = half(200, 0), optimizer_of(pretrainer)
    losses = pretrainer(cloud(200), keep).losses
    assert len(seen["teacher"]) == 200
    assert torch.equal(seen["student"], cloud(200).coords[keep])
    sum(losses.values()).backward()
    optimizer.step()
    weights = {name: p.clone() for name, p in pretrainer.teacher.named_parameters()}
    assert all(p.grad is None for p in pretrainer.teacher.parameters())
    assert torch.equal(weights["encoder.conv4.0.0.weight"], toy_backbone().conv4[0][0].weight)
    pretrainer.after_step()
    moved = pretrainer.teacher.encoder.conv4[0][0].weight
    student = pretrainer.backbone_3d.conv4[0][0].weight
    assert torch.allclose(moved, 0.9 * weights["encoder.conv4.0.0.weight"] + 0.1 * student, atol=1e-6)
    assert not torch.equal(moved, student)


def test_the_teachers_projectors_follow_too():
    pretrainer = build()
    train(pretrainer, optimizer_of(pretrainer), range(1))
    for pair in (pretrainer.voxel.projectors, pretrainer.frame.projectors):
        assert not torch.equal(pair.teacher[0].weight, pair.student[0].weight)
        assert all(p.grad is None for p in pair.teacher.parameters())


def test_resume_is_exact_teacher_queues_and_draws_included():
    whole = build()
    curve = train(whole, optimizer_of(whole), range(4))
    first = build()
    optimizer = optimizer_of(first)
    begun = train(first, optimizer, range(2))
    second = build()
    second.load_state_dict(first.state_dict())
    resumed = optimizer_of(second)
    resumed.load_state_dict(optimizer.state_dict())
    assert begun + train(second, resumed, range(2, 4)) == curve
    assert digest(second) == digest(whole)


def test_the_state_holds_teacher_queues_and_position():
    names = set(build().state_dict())
    assert {"teacher.encoder.conv1.0.bn1.running_mean", "frame.queue_teacher", "frame.written", "steps",
            "voxel.projectors.teacher.0.weight", "backbone_3d.conv4.0.0.weight"} <= names  # fmt: skip


def test_an_error_in_a_term_stays_an_error(monkeypatch):
    def broken(*_):
        raise RuntimeError("broken term")

    monkeypatch.setattr(mlfr, "distance", broken)
    with pytest.raises(RuntimeError, match="broken term"):
        build()(cloud(), half(300))


HOT = ("pretraining", "occupancy", "mlfr", "contrast", "frame_level", "teacher", "backbone", "head", "assignment",
       "detection_loss", "engine/epochs")  # fmt: skip


@pytest.mark.parametrize("module", HOT)
def test_no_term_is_printed_or_read_to_the_host_in_a_step(module):
    """Trap T33: reading one number stops the device; the loop reads once, for all."""
    tree = ast.parse((Path(voxel_mae.__file__).parent / f"{module}.py").read_text())
    called = {ast.unparse(node.func).rpartition(".")[2] for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"print", "item", "tolist", "numpy"}


def test_labels_are_never_read():
    class Labelled(Cloud):
        @property
        def gt_boxes(self):
            raise AssertionError("pretraining read the boxes")

    batch = cloud()
    with_boxes = build()(Labelled(batch.features, batch.coords, 2), half(300)).losses
    without = build()(batch, half(300)).losses
    assert {k: v.item() for k, v in with_boxes.items()} == {k: v.item() for k, v in without.items()}


def test_evaluation_remembers_no_cloud():
    pretrainer = build().eval()
    pretrainer(cloud(), half(300))
    pretrainer.after_step()
    assert pretrainer.frame.written.item() == 0


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    "batch", [empty_cloud(), Cloud(torch.ones(1, 3), torch.tensor([[1, 3, 4, 5]]).int(), 2)], ids=["empty", "one voxel"]
)
def test_empty_supervision_stays_finite(batch):
    pretrainer = build()
    for _ in range(2):
        losses = pretrainer(batch, torch.ones(len(batch.coords), dtype=torch.bool)).losses
        sum(losses.values()).backward()
        pretrainer.after_step()
    trained = [p for p in pretrainer.parameters() if p.requires_grad]
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert all(buffer.isfinite().all() for buffer in pretrainer.buffers())


def test_layers_that_pretraining_cannot_reach_are_frozen_and_all_others_get_gradients():
    pretrainer = build()
    sum(pretrainer(cloud(), half(300)).losses.values()).backward()
    layers = pretrainer.backbone_3d.named_children()
    frozen = {name for name, layer in layers if not any(p.requires_grad for p in layer.parameters())}
    assert frozen == {"conv5", "conv6", "conv_out", "shared_conv"}
    assert not [n for n, p in pretrainer.named_parameters() if p.requires_grad and p.grad is None]


def test_a_mask_that_hides_everything_is_refused():
    with pytest.raises(DataError, match="hides all 300 voxels"):
        build()(cloud(), torch.zeros(300, dtype=torch.bool))


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="one bool for each of 300"):
        build()(cloud(), torch.ones(299, dtype=torch.bool))


@pytest.mark.parametrize(
    ("weights", "teacher", "words"),
    [
        ({"occupancy": 1.0, "mlfr": 1.0}, None, "ENABLE_TEACHER_STUDENT"),
        ({"occupancy": 0.0}, None, "every weight is 0"),
        ({"occupancy": -1.0}, None, "0 or more"),
        ({"rmae": 1.0}, None, "the terms are"),
        ({"occupancy": float("nan")}, None, "0 or more"),
    ],
)
def test_wrong_weights_are_refused(weights, teacher, words):
    with pytest.raises(ValueError, match=words):
        PretrainSettings(weights, teacher)
