"""Head, detection losses and the detector: shapes, hand values, gradients, empty input, modes (T18, T19, T20, T21)."""

import math

import pytest
import torch
from detector_samples import (
    BEV,
    small_backbone,
    small_batch,
    small_boxes,
    small_detector,
    small_grid,
    small_pretrainer,
    small_settings,
)

from shared.errors import ConfigError
from shared.run import World
from voxel_mae.assignment import Targets
from voxel_mae.decode import DecodeSettings
from voxel_mae.detection_loss import LossWeights, box_loss, detection_losses, divisors, focal_loss
from voxel_mae.detector import DetectionSettings, RMAECMAEDetectorPhase1
from voxel_mae.head import HeadSettings, VoxelNeXtHead, label_groups
from voxel_mae.pretraining import PretrainSettings
from voxel_mae.sparse import sparse_tensor
from voxel_mae.voxelize import VoxelBatch

# --- losses -----------------------------------------------------------------------------------------------------------


def test_focal_loss_by_hand():
    """One peak, one near it, one far: p = .5 everywhere."""
    heat = torch.tensor([[1.0], [0.5], [0.0]])
    quarter = 0.25 * math.log(0.5)
    expected = -(quarter + 0.5**4 * quarter + quarter)
    assert focal_loss(torch.zeros(3, 1), heat).item() == pytest.approx(expected, rel=1e-6)
    two = torch.cat([heat, heat])
    assert focal_loss(torch.zeros(6, 1), two).item() == pytest.approx(expected, rel=1e-6)  # over the peaks
    no_peak = -(0.5**4 * quarter + quarter)  # divided by 1
    assert focal_loss(torch.zeros(2, 1), heat[1:]).item() == pytest.approx(no_peak, rel=1e-6)


def test_focal_loss_is_least_at_the_truth_and_finite_far_off():
    heat = torch.tensor([[1.0, 0.0], [0.0, 0.3]])
    right, wrong = torch.tensor([[20.0, -20], [-20, -20]]), torch.tensor([[-60.0, 60], [60, 60]])
    assert focal_loss(right, heat) < 1e-6
    worst = focal_loss(wrong.half(), heat)
    assert torch.isfinite(worst) and worst > 9 and worst.dtype == torch.float32


def one_box(codes):
    return Targets(torch.ones(2, 1), torch.tensor([[1, 0]]), torch.tensor([[True, False]]), codes)


def test_box_loss_by_hand():
    codes = torch.zeros(1, 2, 8)
    codes[0, 0] = torch.arange(8.0)
    codes[0, 1] = 99  # padding: never read
    targets, found = one_box(codes), torch.full((2, 8), 1.0)
    weights = (1, 1, 1, 1, 1, 1, 0.5, 2)
    expected = sum(w * abs(c - 1) for w, c in zip(weights, range(8), strict=True))
    assert box_loss(found, targets, weights).item() == pytest.approx(expected)
    assert box_loss(codes[0, :1].expand(2, 8), targets, weights) == 0


@pytest.mark.fault(12)
def test_without_boxes_the_losses_are_finite_and_so_are_the_gradients():
    logits, codes = torch.randn(5, 3, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    targets = Targets(
        torch.zeros(5, 3), torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2) > 0, torch.zeros(1, 2, 8)
    )
    loss = focal_loss(logits, targets.heat) + box_loss(codes, targets, (1.0,) * 8)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all() and (codes.grad == 0).all()


def test_code_weights_are_eight():
    """Trap T21: the note's file has seven."""
    with pytest.raises(ConfigError, match=r"code_weights has 7 values.*8"):
        LossWeights(codes=(1.0,) * 7)
    with pytest.raises(ConfigError, match="negative"):
        LossWeights(loc=-1)


class TwoProcesses(World):
    """What a process sees of a world of two: the sum of its own counts and the other's."""

    def sum(self, tensor):
        return tensor + self.others


def test_two_processes_divide_by_the_boxes_of_both():
    few, many = one_box(torch.zeros(1, 2, 8)), None
    many = Targets(few.heat, few.site, torch.tensor([[True, True]]), few.codes)
    found = torch.rand(2, 8)
    answers = {"hm": torch.zeros(2, 1), "center": found[:, :2], "center_z": found[:, 2:3], "dim": found[:, 3:6]}
    answers["rot"] = found[:, 6:]
    locs = []
    for mine, other in ((few, many), (many, few)):
        world = TwoProcesses(size=2)
        object.__setattr__(world, "others", torch.stack([(other.heat == 1).sum(), other.valid.sum()]).float()[None])
        locs.append(detection_losses([answers], [mine], world=world)["loc"])
    together = (found[1].sum() + found[1].sum() + found[0].sum()) / 3
    assert (locs[0] + locs[1]) / 2 == pytest.approx(together.item(), rel=1e-6)
    assert divisors([few]).tolist() == [[2, 1]]


# --- head -------------------------------------------------------------------------------------------------------------


def bev_tensor(channels=BEV, sites=9, shape=(8, 8)):
    cells = torch.randperm(64)[:sites]
    indices = torch.stack([torch.zeros(sites, dtype=torch.long), cells // 8, cells % 8], 1).int()
    return sparse_tensor(torch.randn(sites, channels), indices, shape, 1)


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_head_answers_at_every_site(kernel):
    torch.manual_seed(0)
    head = VoxelNeXtHead(HeadSettings(((2, 1), (3,)), BEV, kernel)).eval()
    first, second = head(bev_tensor())
    assert {name: value.shape[1] for name, value in first.items()} == {
        "hm": 2,
        "center": 2,
        "center_z": 1,
        "dim": 3,
        "rot": 2,
    }
    assert second["hm"].shape == (9, 1)
    assert first["hm"].sigmoid().mean().item() == pytest.approx(0.1, abs=0.1)
    assert head.heads_list[0].hm[-1].bias.tolist() == pytest.approx([-2.19] * 2)
    assert (head.heads_list[0].center[-1].bias == 0).all()


def test_the_head_s_names_are_openpcdet_s():
    names = set(VoxelNeXtHead(HeadSettings(((1,),), BEV, 1)).state_dict())
    for name in ("hm.0.0.weight", "hm.0.0.bias", "hm.0.1.running_mean", "hm.1.weight", "rot.1.bias"):
        assert f"heads_list.0.{name}" in names


def test_a_kernel_of_one_never_looks_at_neighbours_and_three_does():
    for kernel, differs in ((1, False), (3, True)):
        torch.manual_seed(1)
        head = VoxelNeXtHead(HeadSettings(((1,),), BEV, kernel)).eval()
        indices = torch.tensor([[0, 4, 4], [0, 4, 5]], dtype=torch.int32)
        features = torch.randn(2, BEV)
        before = head(sparse_tensor(features, indices, (8, 8), 1))[0]["dim"][0]
        after = head(sparse_tensor(features * torch.tensor([[1.0], [3.0]]), indices, (8, 8), 1))[0]["dim"][0]
        assert (not torch.equal(before, after)) == differs


def test_the_spread_of_the_first_weights_is_kaiming_s():
    torch.manual_seed(0)
    head = VoxelNeXtHead(HeadSettings(((1,),), 64, 3))
    weight = head.heads_list[0].dim[0][0].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)


def test_the_head_refuses_a_3d_level_and_another_width():
    """Trap T18: the head reads the fused bird's-eye tensor."""
    head = VoxelNeXtHead(HeadSettings(((1,),), BEV, 1))
    level = sparse_tensor(
        torch.randn(2, BEV), torch.tensor([[0, 1, 1, 1], [0, 2, 2, 2]], dtype=torch.int32), (4, 8, 8), 1
    )
    with pytest.raises(ValueError, match="bird's-eye"):
        head(level)
    with pytest.raises(ValueError, match="INPUT_FEATURES"):
        head(bev_tensor(BEV * 2))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"groups": ((1, 2), (2,))}, "exactly one head"),
        ({"groups": ((1, 3),)}, "exactly one head"),
        ({"groups": ()}, "exactly one head"),
        ({"groups": ((1,),), "kernel": 2}, "odd"),
        ({"groups": ((1,),), "depths": {"hm": 2}}, "branches"),
    ],
)
def test_head_settings_are_checked(broken, message):
    with pytest.raises(ConfigError, match=message):
        HeadSettings(**broken)


def test_labels_of_class_names():
    assert label_groups([["grader"], ["roller", "dumptruck"]], ["dumptruck", "grader", "roller"]) == ((2,), (3, 1))
    with pytest.raises(ConfigError, match="dozer"):
        label_groups([["dozer"]], ["grader"])


# --- detector ---------------------------------------------------------------------------------------------------------


def test_training_reaches_every_parameter_on_the_cpu():
    """Trap T20: it builds and runs without CUDA; and nothing of backbone or head is left out of the graph."""
    detector = small_detector()
    losses, diagnostics = detector(small_batch(), boxes=small_boxes())
    assert set(losses) == {"cls", "loc"} and diagnostics["boxes"] == 3 and not diagnostics["boxes"].requires_grad
    sum(losses.values()).backward()
    dead = [name for name, p in detector.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not dead
    still = [name for name, p in detector.named_parameters() if name.endswith("weight") and (p.grad == 0).all()]
    assert not still
    assert all(name.startswith(("backbone_3d.", "dense_head.")) for name, _ in detector.named_parameters())


def test_training_does_not_change_the_ground_truth():
    boxes = small_boxes()
    small_detector(settings=small_settings(((4, 2), (1, 3))))(small_batch(), boxes=boxes)
    assert torch.equal(boxes, small_boxes())


def test_detections_are_per_sample_and_without_gradient():
    detector = small_detector(settings=small_settings(score_threshold=0.0)).eval()
    found = detector(small_batch())
    assert len(found) == 2 and all(len(each) for each in found)
    assert found[0].boxes.shape[1] == 7 and not found[0].boxes.requires_grad
    assert set(found[0].labels.tolist()) <= {1, 2, 3, 4}
    assert (found[0].scores.diff() <= 0).all()


def test_a_sample_s_detections_do_not_depend_on_its_batch():
    detector = small_detector(settings=small_settings(score_threshold=0.05)).eval()
    alone = detector(small_batch((400,)))[0]
    together = detector(small_batch((400, 300)))[0]
    torch.testing.assert_close(alone.boxes, together.boxes, atol=1e-4, rtol=1e-4)


@pytest.mark.fault(12)
@pytest.mark.parametrize("counts", [(0, 0), (0, 300), (1,), (1, 0)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_empty_and_one_voxel_frames_train_and_detect(counts, kernel):
    detector = small_detector(settings=small_settings(kernel=kernel))
    boxes = torch.cat([small_boxes()[:1]] * len(counts))
    losses, _ = detector(small_batch(counts), boxes=boxes)
    loss = sum(losses.values())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.parameters())
    assert len(detector.eval()(small_batch(counts))) == len(counts)
    assert all(torch.isfinite(value).all() for value in detector.state_dict().values())


@pytest.mark.fault(12)
def test_frames_without_boxes_train():
    losses, diagnostics = small_detector()(small_batch(), boxes=torch.zeros(2, 1, 8))
    assert losses["loc"] == 0 and torch.isfinite(losses["cls"]) and diagnostics["boxes"] == 0


def test_a_few_steps_learn_one_scene():
    detector, batch, boxes = small_detector(), small_batch((120, 120)), small_boxes()
    optimizer = torch.optim.Adam(detector.parameters(), 1e-2)
    history = []
    for _ in range(6):
        loss = sum(detector(batch, boxes=boxes)[0].values())
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert history[-1] < 0.7 * history[0]


def test_modes_ask_for_what_they_need():
    detector, pretrainer, batch = small_detector(), small_pretrainer(), small_batch()
    keep = torch.rand(len(batch)) < 0.5
    with pytest.raises(ValueError, match="boxes"):
        detector(batch)
    with pytest.raises(ValueError, match="never masks"):
        detector(batch, boxes=small_boxes(), keep=keep)
    with pytest.raises(ValueError, match="keep"):
        pretrainer(batch)
    assert "occupancy" in pretrainer(batch, keep=keep).losses


def test_pretraining_is_the_same_with_and_without_boxes():
    """Trap T13, at the detector's door."""
    losses = []
    for boxes in (None, small_boxes()):
        model, batch = small_pretrainer(), small_batch()
        losses.append(model(batch, keep=torch.arange(len(batch)) % 3 == 0, boxes=boxes).losses["occupancy"])
    assert torch.equal(*losses)


def test_after_step_moves_the_teacher_and_nothing_in_detection():
    model, batch = small_pretrainer(), small_batch()
    before = {name: value.clone() for name, value in model.pretrainer.teacher.named_parameters()}
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(0.1)
    model.after_step()
    assert any(not torch.equal(value, before[name]) for name, value in model.pretrainer.teacher.named_parameters())
    detector = small_detector()
    state = {name: value.clone() for name, value in detector.state_dict().items()}
    detector.after_step()
    assert all(torch.equal(value, state[name]) for name, value in detector.state_dict().items())
    assert len(batch)


def test_settings_that_contradict_each_other_are_refused():
    grid = small_grid()
    with pytest.raises(ConfigError, match="one"):
        RMAECMAEDetectorPhase1(grid, small_backbone())
    with pytest.raises(ConfigError, match="one"):
        RMAECMAEDetectorPhase1(grid, small_backbone(), detection=small_settings(), pretraining=PretrainSettings())
    narrow = DetectionSettings(HeadSettings(((1,),), BEV), DecodeSettings((-5, -6.4, -3, 6.4, 6.4, 3)))
    with pytest.raises(ConfigError, match="POST_CENTER_LIMIT_RANGE"):  # trap T22
        RMAECMAEDetectorPhase1(grid, small_backbone(), detection=narrow)
    with pytest.raises(ConfigError, match="NMS_THRESH has 3 values for 4"):  # trap T24
        small_detector(settings=small_settings(nms_iou=(0.2, 0.2, 0.2)))
    wide = DetectionSettings(HeadSettings(((1,),), 2 * BEV), small_settings().decoding)
    with pytest.raises(ConfigError, match="INPUT_FEATURES"):
        RMAECMAEDetectorPhase1(grid, small_backbone(), detection=wide)


def test_a_backbone_of_another_grid_is_refused():
    grid = small_grid((0.4, 0.4, 0.4))
    detector = RMAECMAEDetectorPhase1(grid, small_backbone(small_grid()), detection=small_settings())
    with pytest.raises(ValueError, match=r"grid\.shape_zyx"):
        detector(small_batch(), boxes=small_boxes())


def test_another_feature_count_is_refused():
    batch = small_batch(features=4)
    assert isinstance(batch, VoxelBatch)
    with pytest.raises(ValueError, match="4 features"):
        small_detector()(batch, boxes=small_boxes())
