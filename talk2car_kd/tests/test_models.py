"""Encoders, heads and the model that joins them."""

import pytest
import timm
import torch

from shared.errors import CheckpointError, ConfigError
from talk2car_kd.grounding import (
    MEDIAN_BOX,
    DecoderLayer,
    Join,
    Packing,
    ProjectionGroundingHead,
    Talk2CarModel,
    TransformerGroundingHead,
    Words,
    sentence_of,
    sine_positions,
)
from talk2car_kd.student import DistilledConvNeXtTiny, DistilledConvNeXtTinyMultiScale, build_backbone

BACKBONE = "test_convnext"


@pytest.fixture
def frames():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def text(b=3, length=7, width=32, seed=0):
    tokens = torch.randn(b, length, width, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(length) < torch.tensor([[length], [4], [2]])[:b]
    return tokens, mask


def model(head="transformer", stride=8):
    torch.manual_seed(0)
    encoder = DistilledConvNeXtTinyMultiScale(16, BACKBONE, map_dim=24, map_stride=stride)
    heads = {
        "transformer": lambda: TransformerGroundingHead(24, 32, dim=32, heads=4, ffn=64, layers=2, dropout=0.0),
        "projection": lambda: ProjectionGroundingHead(24, 32, dim=32, dropout=0.0),
    }
    return Talk2CarModel(encoder, heads[head]()).eval()


def test_plain_student_pools_as_timm_does(frames):
    student = DistilledConvNeXtTiny(16, BACKBONE).eval()
    plain = timm.create_model(BACKBONE, num_classes=0).eval()
    plain.load_state_dict(student.backbone.state_dict())
    torch.testing.assert_close(student.pooled(frames), plain(frames), rtol=1e-5, atol=1e-5)
    assert student.feature_map(frames).shape == (2, 64, 2, 3)
    assert student(frames).shape == (2, 16)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_multiscale_map_has_the_stride_asked_for(frames, stride):
    student = DistilledConvNeXtTinyMultiScale(16, BACKBONE, map_dim=24, map_stride=stride)
    assert student.feature_map(frames).shape == (2, 24, 64 // stride, 96 // stride)
    assert student(frames).shape == (2, 16)


def test_every_scale_reaches_the_fused_map(frames):
    student = DistilledConvNeXtTinyMultiScale(16, BACKBONE, map_dim=24, map_stride=16)
    student(frames).sum().backward()
    assert all(lateral.weight.grad.abs().sum() > 0 for lateral in student.laterals)


def test_backbones_that_do_not_exist_or_have_no_weights_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="resnet50"):
        build_backbone("resnet50", "random")
    with pytest.raises(CheckpointError, match=r"missing\.pth"):
        build_backbone(BACKBONE, str(tmp_path / "missing.pth"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"student\.init: random"):
        build_backbone(BACKBONE, "no_such_tag")


@pytest.mark.parametrize("head", ["transformer", "projection"])
def test_forward_contract(frames, head):
    tokens, mask = text()
    out = model(head)(frames, tokens, mask, torch.tensor([0, 1, 1]))
    assert out["boxes_cxcywh"].shape == (3, 4)
    assert ((out["boxes_cxcywh"] >= 0) & (out["boxes_cxcywh"] <= 1)).all()
    if head == "transformer":
        assert out["score_map"].shape == (3, 8, 12)
        assert len(out["aux"]) == 1 and out["attention"].shape == (3, 8, 12)
        torch.testing.assert_close(out["attention"].sum((1, 2)), torch.ones(3))
    else:
        assert out["score_map"] is None and out["aux"] == []


@pytest.mark.parametrize("head", ["transformer", "projection"])
def test_frames_shared_by_commands_equal_frames_repeated(frames, head):
    tokens, mask = text()
    index = torch.tensor([0, 1, 1])
    net = model(head)
    shared, repeated = net(frames, tokens, mask, index), net(frames[index], tokens, mask)
    torch.testing.assert_close(shared["boxes_cxcywh"], repeated["boxes_cxcywh"], rtol=1e-4, atol=1e-5)


def test_padding_tokens_change_nothing(frames):
    tokens, mask = text()
    poisoned = torch.where(mask[..., None], tokens, torch.full_like(tokens, 1e3))
    net, index = model(), torch.tensor([0, 1, 1])
    torch.testing.assert_close(
        net(frames, tokens, mask, index)["score_map"], net(frames, poisoned, mask, index)["score_map"]
    )


def test_a_sentence_vector_is_enough(frames):
    out = model()(frames, torch.randn(2, 32))
    assert out["boxes_cxcywh"].shape == (2, 4)


def test_batch_of_commands_without_index_must_match_the_frames(frames):
    tokens, mask = text()
    with pytest.raises(ValueError, match="image_index"):
        model()(frames, tokens, mask)


def test_the_box_is_the_best_cells(frames):
    tokens, mask = text()
    out = model()(frames, tokens, mask, torch.tensor([0, 1, 1]))
    best = out["score_map"].flatten(1).argmax(1)
    torch.testing.assert_close(out["boxes_cxcywh"], out["cell_boxes"][torch.arange(3), best])


def test_one_cell_answers_two_commands_with_two_boxes(frames):
    tokens, mask = text(2)
    net = model()
    torch.nn.init.normal_(net.head.box.join.out.weight)
    boxes = net(frames[:1], tokens, mask, torch.tensor([0, 0]))["cell_boxes"]
    assert (boxes[0] - boxes[1]).abs().max() > 1e-3


def test_a_join_is_a_hidden_layer_over_both():
    join, packing = Join(8, 3), Packing(torch.tensor([1, 0, 1]), 2)
    reg, cells = torch.randn(3, 8), torch.randn(2, 5, 8)
    answer = packing.unpack(join(reg, join.of_cell(cells), packing))
    both = torch.cat([cells[packing.index], reg[:, None].expand(3, 5, 8)], -1)
    weight = torch.cat([join.of_cell.weight, join.of_command.weight], 1)
    hidden = torch.nn.functional.linear(both, weight, join.of_cell.bias + join.of_command.bias)
    torch.testing.assert_close(answer, join.out(hidden.relu()))


def test_a_known_word_has_a_vector_and_a_strange_one_has_none():
    words = Words(torch.tensor([3, 7, 49407]), 4)
    vectors = words(torch.tensor([[7, 5], [49407, 3]])) - words.places[:2]
    torch.testing.assert_close(vectors[0, 0], words.vectors[1])
    torch.testing.assert_close(vectors[1], words.vectors[[2, 0]])
    assert vectors[0, 1].eq(0).all()


def test_the_words_reach_the_answer(frames):
    net = Talk2CarModel(model().encoder, TransformerGroundingHead(24, 32, torch.arange(9), 32, 4, 64, 2, 1, 0.0)).eval()
    tokens, mask = text(2)
    ids = torch.arange(7).expand(2, 7)
    one, other = (net(frames, tokens, mask, token_ids=i)["score_map"] for i in (ids, ids.flip(1)))
    unknown, none = net(frames, tokens, mask, token_ids=ids + 100)["score_map"], net(frames, tokens, mask)["score_map"]
    assert (one - other).abs().max() > 1e-4
    torch.testing.assert_close(unknown, none)


def test_a_decoder_layer_gives_the_rows_wanted_as_if_it_gave_all():
    torch.manual_seed(0)
    layer, packing = DecoderLayer(16, 2, 32, dropout=0.0), Packing(torch.tensor([0, 1, 1]), 2)
    x, cells, mask = torch.randn(3, 5, 16), torch.randn(2, 12, 16), torch.ones(3, 5, dtype=torch.bool)
    mask[1, 3:] = False
    whole = layer(x, mask, cells, packing)
    torch.testing.assert_close(layer(x, mask, cells, packing, wanted=2), whole[:, :2])


def test_training_draws_no_attention(frames):
    tokens, mask = text()
    grounding = model("transformer")
    assert grounding.train()(frames[:1], tokens[:1], mask[:1])["attention"] is None
    assert grounding.eval()(frames[:1], tokens[:1], mask[:1])["attention"] is not None


def test_untrained_heads_answer_with_the_median_box(frames):
    tokens, mask = text()
    index = torch.tensor([0, 1, 1])
    direct = model("projection")(frames, tokens, mask, index)["boxes_cxcywh"]
    torch.testing.assert_close(direct, torch.tensor(MEDIAN_BOX).expand(3, 4), atol=2e-3, rtol=0)
    size = model()(frames, tokens, mask, index)["boxes_cxcywh"][:, 2:]
    torch.testing.assert_close(size, torch.tensor(MEDIAN_BOX[2:]).expand(3, 2), atol=2e-3, rtol=0)


def test_positions_differ_from_cell_to_cell_and_the_head_sees_left_from_right():
    positions = sine_positions(6, 10, 32)
    distance = torch.cdist(positions, positions) + 10 * torch.eye(60)
    assert distance.min() > 0.05
    frame = torch.zeros(1, 3, 64, 96)  # nothing in it: only the positions tell cells apart
    tokens, mask = text(1)
    score = model()(frame, tokens, mask)["score_map"][0]
    assert (score[:, 2] - score[:, -3]).abs().max() > 1e-4


def test_a_place_scores_whatever_stands_there():
    """Content and the joint layer silenced, the scores still differ from place to place, and with the command."""
    head = model().head.score
    for layer in (head.offer[-1], head.join.out):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    keys = head.keys(torch.randn(1, 60, 32), sine_positions(6, 10, 32))
    left, right = head(torch.randn(2, 32), keys, Packing(torch.tensor([0, 0]), 1))
    assert left.std() > 1e-2
    assert (left - right).abs().max() > 1e-2


def test_the_sentence_is_the_last_token():
    tokens, mask = text()
    torch.testing.assert_close(sentence_of(tokens, mask), tokens[torch.arange(3), torch.tensor([6, 3, 1])])
