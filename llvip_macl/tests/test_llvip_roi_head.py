"""MACLRoIHead: which rows are compared, in which boxes, and what comes out under which name."""

import math

import pytest
import torch
from llvip_model_samples import WIDTH, batch, images, sample, small_model

from llvip_macl.models.paired_boxes import ImageRows, carry_boxes, evenly, group_numbers, image_rows
from shared.errors import ConfigError

# --- boxes (no model)


def boxes(*corners):
    return torch.tensor(corners, dtype=torch.float32)


def test_a_box_is_carried_with_its_person():
    gt_vis, gt_ir = boxes((10, 10, 20, 30)), boxes((14, 11, 24, 31))  # shifted by (4, 1)
    torch.testing.assert_close(carry_boxes(boxes((9, 12, 21, 30)), gt_vis, gt_ir), boxes((13, 13, 25, 31)))
    larger = boxes((0, 0, 20, 40))  # twice the size
    torch.testing.assert_close(carry_boxes(gt_vis, gt_vis, larger), larger)
    torch.testing.assert_close(carry_boxes(boxes((12.5, 15, 17.5, 25)), gt_vis, larger), boxes((5, 10, 15, 30)))
    torch.testing.assert_close(carry_boxes(boxes((1, 2, 3, 4)), gt_vis, gt_vis), boxes((1, 2, 3, 4)))


def test_rows_without_an_infrared_label_leave_and_rows_above_the_limit_are_thinned():
    gt = boxes((0, 0, 10, 20), (30, 0, 40, 20))
    rois, person = boxes((0, 0, 10, 19), (30, 1, 40, 20), (1, 0, 10, 20)), torch.tensor([0, 1, 0])
    both = image_rows(rois, person, gt, None, None)
    assert both.ir_boxes is both.vis_boxes and both.person.tolist() == [0, 1, 0]
    unseen = image_rows(rois, person, gt, boxes((2, 0, 12, 20), (0, 0, 0, 0)), None)
    assert unseen.person.tolist() == [0, 0]
    torch.testing.assert_close(unseen.ir_boxes, unseen.vis_boxes + boxes((2, 0, 2, 0)))
    assert len(image_rows(rois, person, gt, None, 2).person) == 2
    assert image_rows(rois[:0], person[:0], gt[:0], gt[:0], 5).vis_boxes.shape == (0, 4)


def test_thinning_is_even_and_without_draws():
    assert evenly(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert evenly(3, 5).tolist() == evenly(3, None).tolist() == [0, 1, 2]
    assert len(set(evenly(100, 64).tolist())) == 64


def test_groups_are_persons_of_one_image():
    none = torch.zeros(0, 4)
    rows = [ImageRows(none, none, torch.tensor(person, dtype=torch.long)) for person in ([0, 0, 1], [], [0, 2])]
    assert group_numbers(rows, [2, 4, 3]).tolist() == [0, 0, 1, 6, 8]


# --- the head in its detector


@pytest.fixture(scope="module")
def model():
    return small_model()


def head_losses(model, data_samples, proposals=None, seed=0):
    """Losses of the RoI head on random pyramids, proposals at the persons unless given."""
    from mmengine.structures import InstanceData

    g = torch.Generator().manual_seed(seed)
    vis, ir = (
        tuple(torch.randn(len(data_samples), WIDTH, 32 >> i, 40 >> i, generator=g) for i in range(5)) for _ in range(2)
    )
    found = [InstanceData(bboxes=s.gt_instances.bboxes + 1.0) for s in data_samples] if proposals is None else proposals
    fused = tuple((v + r) / 2 for v, r in zip(vis, ir, strict=True))
    return model.roi_head.loss(fused, found, data_samples, vis_feats=vis, ir_feats=ir)


def test_rows_follow_the_rois_not_the_batch(model):
    _, two = batch(2)
    losses = head_losses(model, two)
    assert float(losses["macl_rows"]) == 2 * 4  # four persons, each with its box and a proposal
    _, one = batch(1)
    assert float(head_losses(model, one)["macl_rows"]) == 2 * 3
    model.roi_head.macl_head.settings = model.roi_head.macl_head.settings.__class__(in_dim=WIDTH, roi_source="gt")
    try:
        assert float(head_losses(model, two)["macl_rows"]) == 4
    finally:
        model.roi_head.macl_head.settings = model.roi_head.macl_head.settings.__class__(in_dim=WIDTH)


def test_only_true_losses_are_called_losses(model):
    losses = head_losses(model, batch()[1])
    assert {name for name in losses if "loss" in name} == {"loss_cls", "loss_bbox", "loss_macl"}
    assert {"macl_nats", "macl_chance", "macl_acc1", "macl_rows", "macl_tau"} <= set(losses)
    assert all(isinstance(value, torch.Tensor) for value in losses.values())
    assert float(losses["macl_chance"]) == pytest.approx(math.log(8))


@pytest.mark.fault(12)
@pytest.mark.parametrize("persons", [[[], []], [[(8, 10, 20, 38)], []]])
def test_few_or_no_persons(model, persons):
    from mmengine.structures import InstanceData

    samples = [sample(index, corners) for index, corners in enumerate(persons)]
    proposals = [InstanceData(bboxes=boxes((40, 30, 60, 50), (2, 2, 30, 8))) for _ in samples]
    losses = head_losses(model, samples, proposals)
    rows = sum(len(corners) for corners in persons)
    assert float(losses["macl_rows"]) == rows and losses["loss_macl"] == 0
    assert losses["loss_cls"] > 0  # the background is learnt all the same


def test_infrared_boxes_serve_the_infrared_half(model):
    here, there = [(8, 10, 20, 38)], [(28, 10, 40, 38)]
    head = model.roi_head.eval()
    feats = [tuple(torch.randn(1, WIDTH, 32 >> i, 40 >> i) for i in range(5)) for _ in range(2)]
    moved = [torch.tensor(there, dtype=torch.float32)]
    seen = [torch.tensor(here, dtype=torch.float32)]
    vis, ir = head.paired_embeddings(*feats, seen, moved)
    same_vis, same_ir = head.paired_embeddings(*feats, seen)
    assert torch.equal(vis, same_vis) and not torch.equal(ir, same_ir)
    assert torch.equal(ir, head.paired_embeddings(feats[0], feats[1], moved)[1])
    head.train()
    labelled = head_losses(model, [sample(0, here, there), sample(1, here, there)])
    assert not torch.equal(labelled["macl_nats"], head_losses(model, [sample(0, here), sample(1, here)])["macl_nats"])


def test_weights_are_applied_once_and_the_nats_are_not_weighted():
    samples = batch()[1]
    plain = head_losses(small_model(roi_head__macl_weight=1.0), samples)
    light = head_losses(small_model(roi_head__macl_weight=0.3), samples)
    torch.testing.assert_close(light["loss_macl"], 0.3 * plain["loss_macl"])
    assert torch.equal(light["macl_nats"], plain["loss_macl"].detach())


def test_the_separate_and_the_domain_term_have_names_and_weights_of_their_own():
    changes = {
        "roi_head__dhn": {"type": "DHNSampler", "queue_size": 16, "top_k": 4, "mode": "separate"},
        "roi_head__macl_head": {"type": "MACLHead", "enable_domain_loss": True, "domain_weight": 0.2},
    }
    model = small_model(**changes)
    first, second = batch()[1], [sample(index, [(8, 10, 20, 38)]) for index in (7, 8)]
    losses = head_losses(model, first)
    assert losses["loss_dhn"] == 0  # the queue is empty
    sum(value for name, value in losses.items() if "loss" in name).backward()
    model.after_backward()
    losses = head_losses(model, second)
    assert losses["loss_dhn"] > 0 and losses["loss_domain"] > 0
    twice = small_model(**{**changes, "roi_head__dhn_weight": 1.0, "roi_head__domain_weight": 0.4})
    twice.load_state_dict(model.state_dict())
    doubled = head_losses(twice, second)
    for name in ("loss_dhn", "loss_domain"):
        torch.testing.assert_close(doubled[name], 2 * losses[name])


def test_widths_follow_the_pyramid_and_wrong_ones_are_refused(model):
    assert model.roi_head.macl_head.settings.in_dim == WIDTH
    with pytest.raises(ConfigError, match=r"dhn needs roi_head\.macl_head"):
        small_model(roi_head__macl_head=None, roi_head__dhn={"type": "DHNSampler"}, modality="vis")
    with pytest.raises(ConfigError, match=r"dhn\.dim=64 must equal macl_head\.proj_dim=128"):
        small_model(roi_head__dhn={"type": "DHNSampler", "dim": 64})


def test_one_pyramid_is_not_enough_for_macl(model):
    from mmengine.structures import InstanceData

    samples = batch()[1]
    found = [InstanceData(bboxes=s.gt_instances.bboxes) for s in samples]
    levels = tuple(torch.randn(2, WIDTH, 32 >> i, 40 >> i) for i in range(5))
    with pytest.raises(ConfigError, match="only one reached the RoI head"):
        model.roi_head.loss(levels, found, samples)


def test_embeddings_come_in_the_order_of_the_boxes(model):
    model.eval()
    with torch.no_grad():
        vis, ir, _ = model.extract_pyramids(images())
        given = [boxes((8, 10, 20, 38), (50, 20, 60, 44)), boxes((30, 12, 42, 44))]
        v, r = model.roi_head.paired_embeddings(vis, ir, given)
        alone = model.roi_head.paired_embeddings(vis, ir, [given[0][:0], given[1]])
    model.train()
    assert v.shape == r.shape == (3, 128)
    torch.testing.assert_close(v[2:], alone[0])
    torch.testing.assert_close(r[2:], alone[1])
