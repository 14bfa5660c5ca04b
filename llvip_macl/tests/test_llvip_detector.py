"""PairedFasterRCNN: a step end to end, single modalities, shared and recomputed streams, clear refusals."""

import copy
import math

import pytest
import torch
from llvip_model_samples import WIDTH, batch, build, images, sample, small_config, small_model

from llvip_macl.models.weights import keep_one_class, single_stream_to_pair
from shared.errors import CheckpointError, ConfigError, DataError, NonFiniteError

DHN = {"type": "DHNSampler", "queue_size": 32, "top_k": 8}


def step(model, inputs, samples):
    """One training step's forward, sum and backward; the losses by name and the sum that mmengine logs."""
    model.zero_grad()
    torch.manual_seed(1)  # the samplers draw
    losses = model(inputs, copy.deepcopy(samples), mode="loss")
    total, logged = model.parse_losses(losses)
    total.backward()
    model.after_backward()
    return losses, logged


@pytest.fixture(scope="module")
def full():
    """Both streams with everything switched on."""
    return small_model(
        roi_head__dhn={**DHN, "mode": "separate"},
        roi_head__macl_head={"type": "MACLHead", "enable_domain_loss": True},
        neck__msp_module={"type": "MSPReweight", "alpha_penalty": 1e-4},
        fusion={"type": "gate"},
    )


def scalar(value):
    parts = value if isinstance(value, list) else [value]
    return sum(float(part.detach().mean()) for part in parts)


def test_a_step_sums_every_loss_once_and_reaches_every_parameter(full):
    for seed in (0, 1):  # the second meets a queue that is filled
        inputs, samples = batch(seed=seed)
        for index, one in enumerate(samples):
            one.set_metainfo({"img_id": 10 * seed + index})
        losses, logged = step(full, inputs, samples)
    names = {name for name in losses if "loss" in name}
    assert names == {
        "loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_macl", "loss_dhn", "loss_domain",
        "loss_msp_alpha",
    }  # fmt: skip
    assert float(logged["loss"]) == pytest.approx(sum(scalar(losses[name]) for name in names), rel=1e-6)
    assert losses["loss_dhn"] > 0 and int(full.roi_head.dhn.valid) > 0
    trained = [(name, parameter) for name, parameter in full.named_parameters() if parameter.requires_grad]
    assert not [name for name, parameter in trained if parameter.grad is None or not parameter.grad.any()]
    assert float(losses["loss_msp_alpha"]) == pytest.approx(1e-4 * 5 * 0.25)


def test_a_step_after_loading_the_state_is_the_step_that_would_have_come():
    model = small_model(roi_head__dhn=DHN)
    for seed in (0, 1):
        inputs, samples = batch(seed=seed)
        for index, one in enumerate(samples):
            one.set_metainfo({"img_id": 10 * seed + index})
        step(model, inputs, samples)
    other = small_model(seed=9, roi_head__dhn=DHN)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    inputs, samples = batch(seed=2)
    (_, straight), (_, resumed) = step(model, inputs, samples), step(other, inputs, samples)
    assert float(straight["macl_chance"]) > math.log(8)  # the queue gave columns
    assert straight.keys() == resumed.keys() and all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_predictions_are_boxes_in_the_original_image(full):
    full.eval()
    inputs, samples = batch()
    for one in samples:
        one.set_metainfo({"scale_factor": (2.0, 2.0), "ori_shape": (32, 48)})
    with torch.no_grad():
        found = full(inputs, samples, mode="predict")
    full.train()
    for one in found:
        boxes = one.pred_instances.bboxes
        assert len(boxes) and boxes.shape[1] == 4
        assert (boxes >= 0).all() and (boxes[:, ::2] <= 48).all() and (boxes[:, 1::2] <= 32).all()


@pytest.mark.fault(12)
@pytest.mark.parametrize("persons", [0, 1])
def test_a_batch_of_one_trains_with_and_without_a_person(persons):
    model = small_model()
    samples = [sample(0, [(8, 10, 20, 38)][:persons])]
    losses, logged = step(model, images(1), samples)
    assert math.isfinite(float(logged["loss"])) and float(losses["macl_rows"]) >= persons
    assert losses["loss_cls"] > 0 and losses["loss_macl"].requires_grad
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    if not persons:
        assert losses["loss_macl"] == 0 and losses["loss_bbox"] == 0


# --- streams


@pytest.mark.parametrize("modality", ["vis", "ir"])
def test_one_modality_builds_and_reads_one_stream(modality):
    model = small_model(modality=modality, roi_head__macl_head=None)
    assert not any(name.startswith(("backbone_ir", "neck_ir", "fusion")) for name in model.state_dict())
    inputs, samples = batch()
    other = "ir" if modality == "vis" else "vis"
    _, logged = step(model, inputs, samples)
    spoilt = {**inputs, other: torch.full_like(inputs[other], math.nan)}
    _, same = step(model, spoilt, samples)
    assert logged["loss"] == same["loss"] and "macl_nats" not in logged
    with pytest.raises(DataError, match=r"no (visible|infrared) image"):
        model.extract_pyramids({other: inputs[other]})


def test_both_modalities_matter_and_a_missing_half_is_an_error(full):
    inputs, _ = batch()
    fused = full.extract_pyramids(inputs).fused[0]
    for name in ("vis", "ir"):
        changed = full.extract_pyramids({**inputs, name: inputs[name] + 1}).fused[0]
        assert not torch.equal(fused, changed)
        with pytest.raises(DataError, match="PackPairedDetInputs"):
            full.extract_pyramids({key: value for key, value in inputs.items() if key != name})
    with pytest.raises(DataError, match="Tensor"):
        full.extract_pyramids(inputs["vis"])
    with pytest.raises(DataError, match="both are padded to one size"):
        full.extract_pyramids({**inputs, "ir": inputs["ir"][..., :32]})


def test_equal_streams_on_equal_images_detect_as_one_stream_does():
    """The fused pyramid of twins is each twin's own: a detector made of a single-stream one starts where it stood."""
    single = small_model(modality="vis", roi_head__macl_head=None).eval()
    pair = small_model(seed=5).eval()
    mapped = single_stream_to_pair(single.state_dict())
    missing, unexpected = pair.load_state_dict(mapped.state_dict, strict=False)
    assert not unexpected and all("macl_head" in name for name in missing)
    assert "serve the visible and the infrared stream" in mapped.report
    inputs, samples = batch()
    twins = {"vis": inputs["vis"], "ir": inputs["vis"]}
    with torch.no_grad():
        one, two = (model(twins, copy.deepcopy(samples), mode="predict") for model in (single, pair))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a.pred_instances.scores, b.pred_instances.scores)
        torch.testing.assert_close(a.pred_instances.bboxes, b.pred_instances.bboxes)


def test_a_shared_backbone_is_one_module_and_separate_ones_follow_one_config():
    shared = small_model(share_backbone=True)
    assert shared.backbone_ir is None and not any("backbone_ir" in name for name in shared.state_dict())
    two = small_model(backbone__frozen_stages=2, share_neck=False)
    for backbone in (two.backbone, two.backbone_ir):
        assert not any(p.requires_grad for p in backbone.layer2.parameters())
        assert all(p.requires_grad for p in backbone.layer3.parameters())
    assert not torch.equal(two.backbone.layer3[0].conv1.weight, two.backbone_ir.layer3[0].conv1.weight)
    assert two.neck_ir is not two.neck


def test_detection_on_one_stream_while_both_are_compared():
    model = small_model(det_modality="ir")
    pyramids = model.extract_pyramids(images())
    assert pyramids.fused is pyramids.ir and not hasattr(model, "fusion")
    step(model, *batch())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_recomputing_the_infrared_stream_changes_nothing_but_memory():
    plain, thrifty = small_model(), small_model(checkpoint_ir=True)
    saved = {}
    for name, model in (("plain", plain), ("thrifty", thrifty)):
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.extract_pyramids(images())
        saved[name] = sum(sizes)
        model.load_state_dict(small_model().state_dict())
        _, logged = step(model, *batch())
        saved[f"{name} loss"] = float(logged["loss"])
    assert saved["plain loss"] == saved["thrifty loss"] and saved["thrifty"] < 0.7 * saved["plain"]
    for (name, a), b in zip(plain.named_parameters(), thrifty.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for name, value in plain.state_dict().items():  # BatchNorm's statistics moved once, not twice
        assert torch.equal(value, thrifty.state_dict()[name]), name


# --- refusals and faults


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "rgb"}, "model.modality='rgb'; use one of both, vis, ir"),
        ({"det_modality": "both"}, "model.det_modality='both'"),
        ({"modality": "vis"}, "MACL compares two: set macl_head=None"),
        ({"modality": "vis", "det_modality": "ir", "roi_head__macl_head": None}, "not the only stream"),
        ({"det_modality": "vis", "roi_head__macl_head": None}, "without a loss: use modality='vis'"),
        ({"neck__num_outs": 4}, "model.neck.num_outs=4, but rpn_head.anchor_generator.strides names 5"),
        ({"fusion": {"type": "sum", "_delete_": True}}, "use dict"),
        ({"neck__msp_module__channel": 64}, "did you mean `channels`"),
        ({"roi_head__macl_head__temprature": 0.1}, "did you mean `temperature`"),
    ],
)
def test_wrong_configs_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        small_model(**changes)


def test_the_levels_can_be_changed_together():
    strides = [4, 8, 16, 32]
    model = small_model(neck__num_outs=4, rpn_head__anchor_generator__strides=strides)
    assert len(model.extract_pyramids(images()).fused) == 4 == len(model.neck.msp)


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("roi_head.macl_head.proj.0", "loss_macl"),
        ("roi_head.dhn.key_encoder.0", "loss_dhn"),
        ("neck.msp.0.attend.conv_a", "loss_rpn_cls"),
    ],
)
def test_a_fault_in_any_part_raises_and_is_named(full, place, named):
    model = copy.deepcopy(full)
    with torch.no_grad():
        model.get_submodule(place).bias.fill_(math.nan)
    with pytest.raises(NonFiniteError, match=named) as error:
        for seed in (0, 1, 2):  # a bad key is met a step later, by the anchors of other images
            inputs, samples = batch(seed=seed)
            for index, one in enumerate(samples):
                one.set_metainfo({"img_id": 100 + 10 * seed + index})
            step(model, inputs, samples)
    assert "images of this process: 0.jpg, 1.jpg" in str(error.value)


def test_an_exception_inside_a_part_is_not_swallowed(full, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("broken on purpose")

    for owner, name in (
        (full.roi_head.domain_term, "forward"),
        (full.roi_head.dhn, "negatives"),
        (full.roi_head.macl_head, "embed"),
        (full.neck.msp[0], "forward"),
    ):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="broken on purpose"):
            patch.setattr(owner, name, broken)
            step(full, *batch())


# --- weights


@pytest.mark.fault(10)
def test_paired_weights_pass_and_foreign_ones_are_refused(full):
    mapped = single_stream_to_pair(full.state_dict())
    assert "already" in mapped.report and set(mapped.state_dict) == set(full.state_dict())
    with pytest.raises(CheckpointError, match=r"no `backbone\.\*`"):
        single_stream_to_pair({"conv1.weight": torch.zeros(1)})
    both = single_stream_to_pair({"backbone.a": torch.zeros(1), "neck.backbone.b": torch.ones(1)}, two_necks=True)
    assert set(both.state_dict) == {"backbone.a", "backbone_ir.a", "neck.backbone.b", "neck_ir.backbone.b"}


def test_one_class_of_many_is_kept_with_its_boxes():
    coco = small_config(modality="vis", roi_head__macl_head=None, roi_head__bbox_head__num_classes=5)
    many = build(coco).eval()
    one = small_model(modality="vis", roi_head__macl_head=None).eval()
    kept = keep_one_class(many.state_dict(), 2)
    one.load_state_dict(kept.state_dict)
    rows = torch.randn(3, WIDTH, 7, 7)
    with torch.no_grad():
        scores, boxes = many.roi_head.bbox_head(rows)
        own_scores, own_boxes = one.roi_head.bbox_head(rows)
    torch.testing.assert_close(own_scores, scores[:, [2, 5]])
    torch.testing.assert_close(own_boxes, boxes[:, 8:12])
    with pytest.raises(CheckpointError, match="class 5 cannot be taken"):
        keep_one_class(many.state_dict(), 5)
