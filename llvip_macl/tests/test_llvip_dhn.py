"""DHN: what a queue may hand out, how it fills, its lagging encoder, its order in a step, state and ranks."""

import copy
import multiprocessing

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from llvip_macl.models.dhn import DHNSampler, gather_rows, hard_negatives, image_number
from llvip_macl.models.macl_head import MACLHead
from shared.errors import ConfigError

D = 4


def unit(k, seed=0, d=D):
    return F.normalize(torch.randn(k, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def sampler(queue_size=6, top_k=3, **keys):
    return DHNSampler(dim=D, queue_size=queue_size, top_k=top_k, **keys)


def fill(dhn, images, seed=0):
    numbers = torch.tensor(images)
    vis, ir = unit(len(images), seed), unit(len(images), seed + 100)
    dhn.enqueue(vis, ir, numbers)
    return vis, ir


# --- what is handed out


def test_an_empty_queue_hands_out_nothing():
    dhn = sampler()
    vis, ir = dhn.negatives(unit(2), unit(2, 1), torch.tensor([0, 1]))
    assert not vis.valid.any() and not ir.valid.any() and vis.cosine.shape == (2, 3)


def test_each_anchor_gets_the_nearest_keys_of_the_other_modality():
    dhn = sampler()
    vis_keys, ir_keys = fill(dhn, [10, 11, 12, 13, 14])
    anchors = unit(2, 7), unit(2, 8)
    of_vis, of_ir = dhn.negatives(*anchors, torch.tensor([0, 1]))
    for negatives, anchor, keys in ((of_vis, anchors[0], ir_keys), (of_ir, anchors[1], vis_keys)):
        expected = (anchor @ keys.T).sort(1, descending=True).values[:, :3]
        torch.testing.assert_close(negatives.cosine, expected)
        assert negatives.valid.all()


def test_never_an_unfilled_slot_nor_a_key_of_the_anchor_s_own_image():
    """Its own positive and every RoI of its person are keys of its image; they lie nearest, and never come."""
    dhn = sampler(queue_size=8, top_k=8)
    vis, ir = unit(3), unit(3, 1)
    images = torch.tensor([5, 5, 9])
    dhn.enqueue(vis, ir, images)
    of_vis, of_ir = dhn.negatives(ir, vis, images)  # anchors equal to keys: cosine 1 with the own
    assert of_vis.valid.sum(1).tolist() == [1, 1, 2]
    for negatives, keys in ((of_vis, ir), (of_ir, vis)):
        torch.testing.assert_close(negatives.cosine[0][negatives.valid[0]], keys[0][None] @ keys[2])
        assert (negatives.cosine[negatives.valid] < 0.999).all()


def test_top_k_follows_its_schedule():
    dhn = sampler(queue_size=6, top_k=256)
    fill(dhn, range(6))
    one = unit(1), unit(1, 1), torch.tensor([99])
    assert dhn.negatives(*one)[0].cosine.shape == (1, 6)
    dhn.set_schedule(top_k=2, momentum=0.5)
    assert dhn.negatives(*one)[0].cosine.shape == (1, 2) and dhn.momentum == 0.5
    dhn.set_schedule(top_k=4)
    assert dhn.top_k == 4 and dhn.momentum == 0.5
    for bad in ({"top_k": 0}, {"momentum": 1.0}):
        with pytest.raises(ConfigError, match="top_k="):
            dhn.set_schedule(**bad)


def test_gradients_reach_the_anchors_and_not_the_keys():
    keys = unit(5).requires_grad_()
    anchors = unit(3, 1).requires_grad_()
    hard_negatives(anchors, keys, torch.ones(3, 5, dtype=torch.bool), 2).cosine.sum().backward()
    assert keys.grad is None and anchors.grad.any(1).all()


# --- filling


def test_keys_wrap_around_in_order_and_in_place():
    dhn = sampler(queue_size=5)
    places = {name: buffer.data_ptr() for name, buffer in dhn.named_buffers()}
    first, _ = fill(dhn, [0, 1, 2], 1)
    assert int(dhn.valid) == 3 and int(dhn.pointer) == 3
    second, _ = fill(dhn, [3, 4, 5, 6], 2)
    assert int(dhn.valid) == 5 and int(dhn.pointer) == 2
    assert torch.equal(dhn.queue_vis, torch.cat([second[2:], first[2:], second[:2]]))
    assert dhn.images.tolist() == [5, 6, 2, 3, 4]
    fill(dhn, [], 3)
    assert int(dhn.pointer) == 2
    assert places == {name: buffer.data_ptr() for name, buffer in dhn.named_buffers()}


def test_of_a_batch_larger_than_the_queue_the_last_stay():
    dhn = sampler(queue_size=3)
    fill(dhn, [0], 1)
    vis, ir = fill(dhn, range(10, 18), 2)
    assert set(dhn.images.tolist()) == {15, 16, 17} and int(dhn.valid) == 3
    order = dhn.images - 10
    assert torch.equal(dhn.queue_vis, vis[order]) and torch.equal(dhn.queue_ir, ir[order])


def test_the_state_survives_a_round_trip():
    dhn = sampler()
    dhn.attach(nn.Linear(2, D))
    fill(dhn, [1, 2, 3, 4])
    other = sampler()
    other.attach(nn.Linear(2, D))
    other.load_state_dict(copy.deepcopy(dhn.state_dict()))
    assert set(dhn.state_dict()) >= {"queue_vis", "queue_ir", "images", "pointer", "valid", "started"}
    for model in (dhn, other):
        fill(model, [5, 6, 7], 9)
    for name, value in dhn.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


# --- the key encoder and the order of a step


def stepped(momentum=0.9, **keys):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(3, D), nn.Dropout(0.5))
    dhn = sampler(momentum=momentum, **keys)
    dhn.attach(encoder)
    return encoder, dhn


def hold(dhn, k=2, seed=0, image=0):
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(k, 3, generator=g), torch.randn(k, 3, generator=g)
    dhn.hold(*rows, torch.full((k,), image))
    return rows


def test_the_key_encoder_starts_as_a_copy_then_lags():
    encoder, dhn = stepped()
    with torch.no_grad():
        encoder[0].weight.add_(1.0)  # weights loaded after the sampler was built
    hold(dhn)
    dhn.after_backward(encoder)
    start = dhn.key_encoder[0].weight.clone()
    assert torch.equal(start, encoder[0].weight)
    with torch.no_grad():
        encoder[0].weight.add_(1.0)
    hold(dhn)
    dhn.after_backward(encoder)
    torch.testing.assert_close(dhn.key_encoder[0].weight, start + 0.1)
    assert not any(parameter.requires_grad for parameter in dhn.key_encoder.parameters())


def test_keys_are_unit_rows_of_the_key_encoder_in_evaluation_mode():
    encoder, dhn = stepped()
    dhn.train()
    vis, ir = hold(dhn, k=3, image=7)
    dhn.after_backward(encoder)
    assert not dhn.key_encoder.training
    torch.testing.assert_close(dhn.queue_vis[:3], F.normalize(dhn.key_encoder(vis), dim=1))
    torch.testing.assert_close(dhn.queue_ir[:3], F.normalize(dhn.key_encoder(ir), dim=1))
    assert dhn.images[:4].tolist() == [7, 7, 7, -1] and int(dhn.valid) == 3


def test_a_loss_changes_no_state_until_after_backward_and_is_enqueued_once():
    encoder, dhn = stepped()
    before = copy.deepcopy(dhn.state_dict())
    dhn.negatives(unit(2), unit(2, 1), torch.tensor([0, 1]))
    hold(dhn)
    assert all(torch.equal(before[name], value) for name, value in dhn.state_dict().items())
    dhn.after_backward(encoder)
    dhn.after_backward(encoder)  # nothing is held any more
    assert int(dhn.valid) == 2


def test_a_second_loss_replaces_what_the_first_held():
    encoder, dhn = stepped()
    hold(dhn, k=2, image=1)
    hold(dhn, k=3, image=2)
    dhn.after_backward(encoder)
    assert int(dhn.valid) == 3 and dhn.images[:3].tolist() == [2, 2, 2]


def test_what_is_held_keeps_no_graph():
    _, dhn = stepped()
    rows = torch.ones(2, 3, requires_grad=True)
    dhn.hold(rows * 2, rows * 3, torch.zeros(2, dtype=torch.long))
    assert not dhn._held.vis_features.requires_grad


def test_forward_enqueue_backward_is_sound():
    """mmengine calls backward after loss() returned: an enqueue in between must not spoil the graph."""
    torch.manual_seed(0)
    head = MACLHead(in_dim=3, hidden_dims=(8,), proj_dim=D)
    dhn = sampler()
    dhn.attach(head.proj)
    fill(dhn, [50, 51, 52])

    def gradient(enqueue_first):
        model = copy.deepcopy(head), copy.deepcopy(dhn)
        rows = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
        vis, ir = model[0].embed_pair(rows, rows + 1)
        images = torch.tensor([0, 1])
        loss = model[0](vis, ir, torch.arange(2), *model[1].negatives(vis, ir, images))["macl"]
        model[1].hold(rows, rows + 1, images)
        if enqueue_first:
            model[1].after_backward(model[0].proj)
        loss.backward()
        return model[0].proj[0].weight.grad

    assert torch.equal(gradient(True), gradient(False)) and gradient(True).any()


def test_the_same_steps_give_the_same_queue():
    def run():
        encoder, dhn = stepped()
        for step in range(5):
            hold(dhn, seed=step, image=step)
            dhn.after_backward(encoder)
        return dhn.state_dict()

    first, second = run(), run()
    assert all(torch.equal(first[name], second[name]) for name in first)


# --- keys, images, ranks


def test_old_spellings_are_understood_and_unknown_ones_refused():
    assert DHNSampler(dim=D, K=9, m=0.5, topk=2).queue_vis.shape == (9, D)
    for keys, message in (
        ({"queue": 3}, "did you mean `queue_size`"),
        ({"K": 3, "queue_size": 3}, "set twice"),
        ({"mode": "own"}, "use one of columns, separate"),
        ({"top_k": 0}, "top_k=0"),
        ({"momentum": 1.0}, "1 excluded"),
        ({"queue_size": 0}, "queue_size=0"),
    ):
        with pytest.raises(ConfigError, match=message):
            DHNSampler(**keys)


def test_an_image_s_number_is_stable_and_told_apart():
    assert image_number({"img_id": 17}) == 17
    names = [{"img_id": "set06_V001_I00459"}, {"img_id": "set06_V001_I00460"}, {"img_path": "a.jpg"}]
    numbers = [image_number(name) for name in names]
    assert len(set(numbers)) == 3 and numbers == [image_number(name) for name in names]
    assert all(0 <= number < 2**62 for number in numbers)
    with pytest.raises(ConfigError, match="meta_keys"):
        image_number({"ori_shape": (1, 1)})


def _rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    dhn = sampler(queue_size=8)
    keys = unit(6)
    mine = slice(0, 2) if rank == 0 else slice(2, 6)
    dhn.enqueue(keys[mine], -keys[mine], torch.arange(6)[mine])
    none = torch.zeros(0, D) if rank == 0 else keys[:1]
    dhn.enqueue(none, none, torch.full((len(none),), 9))
    torch.save(dhn.state_dict(), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.fault(22)
def test_ranks_with_different_numbers_of_rows_keep_equal_queues(tmp_path):
    ranks = [multiprocessing.get_context("fork").Process(target=_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(first["queue_vis"][:7], torch.cat([unit(6), unit(6)[:1]]))
    assert first["images"].tolist() == [0, 1, 2, 3, 4, 5, 9, -1]


def test_one_process_gathers_for_free():
    rows = unit(3)
    assert gather_rows(rows) is rows
