"""`--cfg-options`: `name[1].key` works, and a key that would change nothing is refused."""

import pytest

from llvip_macl.runtime.cfg_options import apply_options, arguments_of, check_key, dotted, nearest, parse_options
from shared.errors import ConfigError

TREE = {
    "model": {"type": "D", "backbone": {"type": "R", "depth": 50}, "roi_head": {"bbox_head": {"fc_out_channels": 8}}},
    "param_scheduler": [{"type": "LinearLR", "end": 500}, {"type": "MultiStepLR", "milestones": [8, 11]}],
    "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}, "clip_grad": None},
    "train_cfg": {"max_epochs": 12},
    "load_from": None,
}


def accepts(kind, key):
    return (kind, key) in {("R", "norm_cfg"), ("AdamW", "betas")}


def test_square_brackets_become_dots():
    assert dotted("param_scheduler[1].milestones") == "param_scheduler.1.milestones"
    assert dotted("a[0][2].b") == "a.0.2.b"
    assert dotted("plain.key") == "plain.key"


@pytest.mark.parametrize(
    ("text", "value"),
    [("16", 16), ("1e-4", 1e-4), ("[16,22]", [16, 22]), ("'[16,22]'", [16, 22]), ("(1,2)", (1, 2)), ("True", True),
     ("None", None), ("AdamW", "AdamW"), ("[(1,2),(3,4)]", [(1, 2), (3, 4)]), ("a=b", "a=b"), ("1,2", [1, 2])],
)  # fmt: skip
def test_values_are_read_as_mmengine_reads_them(text, value):
    assert parse_options([f"x[0].y={text}"]) == {"x.0.y": value}


@pytest.mark.fault(19)
@pytest.mark.parametrize("item", ["lonely", "=5", "x=[1,2"])
def test_what_is_not_key_value_is_refused(item):
    with pytest.raises(ConfigError):
        parse_options([item])


@pytest.mark.parametrize(
    "key",
    ["param_scheduler.1.milestones", "model.backbone.depth", "model.backbone.norm_cfg", "load_from", "resume",
     "optim_wrapper.clip_grad.max_norm", "optim_wrapper.paramwise_cfg.norm_decay_mult", "randomness.deterministic",
     "train_cfg.checkpoint_interval_iters"],
)  # fmt: skip
def test_known_and_open_keys_pass(key):
    check_key(TREE, key, accepts)


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("train_cfg.max_epoch", "train_cfg.max_epochs"),
        ("roi_head.bbox_head.fc_out_channels", "model.roi_head.bbox_head.fc_out_channels"),
        ("backbone.depth", "model.backbone.depth"),
        ("param_schedulr.1.milestones", "param_scheduler"),
        ("model.backbone.dept", "model.backbone.depth"),
        ("optim_wrapper.optimizer.momentun", ""),
    ],
)
def test_a_key_that_would_change_nothing_is_refused_with_the_nearest(key, hint):
    with pytest.raises(ConfigError, match="no such key") as refused:
        check_key(TREE, key, accepts)
    assert hint in str(refused.value)


@pytest.mark.fault(19)
def test_places_outside_a_list_and_entries_of_a_number_are_refused():
    with pytest.raises(ConfigError, match="a list of 2"):
        check_key(TREE, "param_scheduler.2.end", accepts)
    with pytest.raises(ConfigError, match="a list of 2"):
        check_key(TREE, "param_scheduler.last.end", accepts)
    with pytest.raises(ConfigError, match="which has no entries"):
        check_key(TREE, "train_cfg.max_epochs.x", accepts)


def test_options_are_merged_and_named():
    from mmengine.config import Config

    cfg = Config(TREE)
    options = parse_options(["param_scheduler[1].milestones=[16,22]", "optim_wrapper.optimizer.betas=(0.9,0.95)",
                             "optim_wrapper.optimizer.type=AdamW"])  # fmt: skip
    explicit = apply_options(cfg, options, accepts)  # betas pass since the type comes first
    assert explicit == set(options)
    assert cfg.param_scheduler[1].milestones == [16, 22]
    assert cfg.param_scheduler[0].end == 500
    assert cfg.optim_wrapper.optimizer == {"type": "AdamW", "lr": 0.1, "betas": (0.9, 0.95)}
    assert set(cfg.keys()) == set(TREE)


def test_nearest_prefers_the_whole_ending():
    assert nearest("end", ["param_scheduler.0.end", "send", "model.x"])[0] == "param_scheduler.0.end"
    assert nearest("zzzzz", ["abc"]) == []


def test_arguments_follow_keywords_up_the_classes():
    class Base:
        def __init__(self, a, b=1):
            pass

    class Open(Base):
        def __init__(self, c, **rest):
            pass

    class Closed(Base):
        def __init__(self, d):
            pass

    assert arguments_of(Open) == {"a", "b", "c"}
    assert arguments_of(Closed) == {"d"}
