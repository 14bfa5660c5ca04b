"""The traps of MMEngine's configs, and what a config must not do silently."""

import pytest
import torch

from llvip_macl.runtime.config_rules import (
    RULES,
    TEST_RULES,
    Context,
    adjust_workers,
    apply_rules,
    check_anchor_strides,
    check_load_from,
    choose_backend,
    choose_precision,
    complete_group_norm,
    drop_foreign_optimizer_keys,
    follow_max_epochs,
    merge_macl_head,
    need_seed,
    refuse_mmdet2,
    scale_rate,
    spread_data_variables,
    spread_norm,
    use_own_hooks,
    use_own_loop,
    warn_of_idle_milestones,
)
from llvip_macl.runtime.embedded import datasets_of, find_data, spread_root
from llvip_macl.runtime.schedules import differences, replay, settings_of, warmup_warning
from shared.errors import ConfigError, DataError

TAKES = {"AdamW": {"lr", "weight_decay", "betas", "eps"}, "SGD": {"lr", "weight_decay", "momentum", "nesterov"}}


def context(*explicit, **rest):
    return Context(frozenset(explicit), accepts=lambda kind, key: key in TAKES[kind], **rest)


# --- A: schedule and optimizer ---


def schedule(epochs, end=12, milestones=(8, 11)):
    return {
        "train_cfg": {"max_epochs": epochs},
        "param_scheduler": [
            {"type": "LinearLR", "by_epoch": False, "begin": 0, "end": 500},
            {"type": "MultiStepLR", "by_epoch": True, "begin": 0, "end": end, "milestones": list(milestones)},
        ],
    }


def test_end_follows_max_epochs():
    cfg = schedule(24, milestones=(16, 22))
    messages = follow_max_epochs(cfg, context("train_cfg.max_epochs", before=schedule(12)))
    assert cfg["param_scheduler"][1]["end"] == 24
    assert cfg["param_scheduler"][0]["end"] == 500  # iterations
    assert "12 -> 24" in messages[0]


def test_an_end_that_was_set_stays():
    cfg = schedule(24, end=12)
    assert follow_max_epochs(cfg, context("param_scheduler.1.end", before=schedule(12))) == []
    assert cfg["param_scheduler"][1]["end"] == 12


def test_t_max_follows_too():
    cfg = {"train_cfg": {"max_epochs": 24},
           "param_scheduler": {"type": "CosineAnnealingLR", "by_epoch": True, "T_max": 12, "end": 12}}  # fmt: skip
    follow_max_epochs(cfg, context(before=schedule(12)))
    assert (cfg["param_scheduler"]["T_max"], cfg["param_scheduler"]["end"]) == (24, 24)


def test_a_milestone_behind_its_own_end_moves_the_end():
    cfg = schedule(24, end=12, milestones=(16, 22))
    follow_max_epochs(cfg, context(before=schedule(24)))  # max_epochs changed in the file
    assert cfg["param_scheduler"][1]["end"] == 24


def test_milestones_behind_the_run_are_told():
    assert "ends after 6" in warn_of_idle_milestones(schedule(6), context())[0]
    assert warn_of_idle_milestones(schedule(12), context()) == []


def test_momentum_is_dropped_for_adamw_and_told():
    cfg = {"optim_wrapper": {"optimizer": {"type": "AdamW", "lr": 0.1, "momentum": 0.9}}}
    messages = drop_foreign_optimizer_keys(cfg, context())
    assert cfg["optim_wrapper"]["optimizer"] == {"type": "AdamW", "lr": 0.1}
    assert "momentum=0.9 dropped" in messages[0]


@pytest.mark.fault(19)
def test_a_misspelt_optimizer_key_is_an_error():
    cfg = {"optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1, "weight_deacy": 0.1}}}
    with pytest.raises(ConfigError, match="weight_decay"):
        drop_foreign_optimizer_keys(cfg, context())
    cfg = {"optim_wrapper": {"optimizer": {"type": "AdamW", "momentum": 0.9}}}
    with pytest.raises(ConfigError, match="takes no such argument"):
        drop_foreign_optimizer_keys(cfg, context("optim_wrapper.optimizer.momentum"))


# --- B to D ---


def test_missing_weights_list_the_best_files(tmp_path):
    folder = tmp_path / "stage1"
    folder.mkdir()
    (folder / "best_epoch7_loss0.2000.pth").touch()
    for wanted in (folder / "best_epoch8_loss0.1140.pth", tmp_path / "stage9" / "best.pth"):
        with pytest.raises(ConfigError, match="best_epoch7_loss0"):
            check_load_from({"load_from": str(wanted)}, context())
    assert check_load_from({"load_from": "https://host/x.pth"}, context()) == []
    assert check_load_from({"load_from": None}, context()) == []


def test_amp_without_cuda_is_one_warning_and_float32():
    cfg = {"optim_wrapper": {"type": "OptimWrapper", "loss_scale": "dynamic", "dtype": "float16"}}
    messages = choose_precision(cfg, context(amp=True))
    assert len(messages) == 1
    assert messages[0].startswith("WARNING")
    assert cfg["optim_wrapper"] == {"type": "OptimWrapper"}
    cfg = {"optim_wrapper": {"type": "AmpOptimWrapper"}}
    choose_precision(cfg, context())
    assert cfg["optim_wrapper"]["type"] == "OptimWrapper"


def test_amp_with_cuda():
    cfg = {"optim_wrapper": {"type": "OptimWrapper"}}
    assert choose_precision(cfg, context(amp=True, cuda=True)) == []
    assert cfg["optim_wrapper"] == {"type": "AmpOptimWrapper", "loss_scale": "dynamic"}
    with pytest.raises(ConfigError, match="OptimWrapperDict"):
        choose_precision({"optim_wrapper": {"type": "OptimWrapperDict"}}, context(amp=True, cuda=True))


# --- the other rules ---


@pytest.mark.fault(19)
def test_a_config_of_mmdet_2_is_refused():
    with pytest.raises(ConfigError, match="train_dataloader"):
        refuse_mmdet2({"data": {"samples_per_gpu": 2}}, context())
    assert refuse_mmdet2({"train_cfg": {}}, context()) == []


def test_macl_head_is_merged_switched_off_and_left_out():
    def cfg(head, **model):
        return {"model": {"roi_head": {"macl_head": {"type": "MACLHead", "tau": 0.1}}, **model}, "macl_head": head}

    merged = cfg({"type": "MACLHead", "use_bn": False})
    merge_macl_head(merged, context())
    assert merged["model"]["roi_head"]["macl_head"] == {"type": "MACLHead", "tau": 0.1, "use_bn": False}
    inner = cfg({"tau": 0.5})
    merge_macl_head(inner, context("model.roi_head.macl_head.tau"))
    assert inner["model"]["roi_head"]["macl_head"]["tau"] == 0.1
    off = cfg(None)
    merge_macl_head(off, context())
    assert off["model"]["roi_head"]["macl_head"] is None
    single = {"model": {"modality": "ir", "roi_head": {"macl_head": None}}, "macl_head": {"type": "MACLHead"}}
    merge_macl_head(single, context())
    assert single["model"]["roi_head"]["macl_head"] is None


def test_group_norm_is_completed_and_leaves_foreign_weights():
    init = {"type": "Pretrained", "checkpoint": "torchvision://resnet50"}
    backbone = {"norm_cfg": {"type": "GN"}, "init_cfg": init, "frozen_stages": 1}
    messages = complete_group_norm({"model": {"backbone": backbone}}, context())
    assert backbone["norm_cfg"]["num_groups"] == 32
    assert backbone["init_cfg"] is None
    assert backbone["frozen_stages"] == -1
    assert len(messages) == 3
    own = {"norm_cfg": {"type": "GN", "num_groups": 8}, "init_cfg": {"checkpoint": "own.pth"}}
    assert complete_group_norm({"model": {"backbone": own}}, context()) == []


def test_norm_cfg_at_the_top_reaches_the_backbone():
    cfg = {"norm_cfg": {"type": "GN", "num_groups": 8}, "model": {"backbone": {"norm_cfg": {"type": "BN"}}}}
    assert spread_norm(cfg, context()) == []
    spread_norm(cfg, context("norm_cfg.type"))
    assert cfg["model"]["backbone"]["norm_cfg"] == {"type": "GN", "num_groups": 8}


def test_strides_must_match_the_levels():
    model = {"neck": {"num_outs": 6}, "rpn_head": {"anchor_generator": {"strides": [4, 8, 16, 32, 64]}}}
    with pytest.raises(ConfigError, match=r"\[4, 8, 16, 32, 64, 128\]"):
        check_anchor_strides({"model": model}, context())
    model["neck"]["num_outs"] = 5
    assert check_anchor_strides({"model": model}, context()) == []


def test_a_files_variables_given_as_options_reach_the_data_sets():
    def cfg():
        one = {"data_root": None, "annotations": "xml"}
        both = {"type": "ConcatDataset", "datasets": [dict(one), dict(one)]}
        return {"test_annotations": "bbgt", "train_dataloader": {"dataset": dict(one)},
                "val_dataloader": {"dataset": dict(one)}, "test_dataloader": {"dataset": both}}  # fmt: skip

    assert spread_data_variables(unset := cfg(), context("data_root")) == []
    assert unset == cfg()
    spread_data_variables(given := cfg(), context("test_annotations"))
    assert given["train_dataloader"]["dataset"]["annotations"] == "xml"
    assert given["val_dataloader"]["dataset"]["annotations"] == "bbgt"
    assert [one["annotations"] for one in given["test_dataloader"]["dataset"]["datasets"]] == ["bbgt", "bbgt"]
    with pytest.raises(ConfigError, match="train_pipeline"):
        spread_data_variables(cfg(), context("train_pipeline.2.scale"))


def test_no_workers_cannot_persist():
    cfg = {"train_dataloader": {"num_workers": 0, "persistent_workers": True, "prefetch_factor": 2},
           "val_dataloader": {"num_workers": 2, "persistent_workers": True}}  # fmt: skip
    assert len(adjust_workers(cfg, context())) == 2
    assert cfg["train_dataloader"] == {"num_workers": 0, "persistent_workers": False}
    assert cfg["val_dataloader"]["persistent_workers"] is True


def test_scaling_the_rate_needs_a_base():
    cfg = {"auto_scale_lr": {"enable": False, "base_batch_size": 16}}
    scale_rate(cfg, context(scale_lr=True))
    assert cfg["auto_scale_lr"]["enable"] is True
    with pytest.raises(ConfigError, match="base_batch_size"):
        scale_rate({}, context(scale_lr=True))


def test_own_hooks_and_loop_take_the_place_of_stock_ones():
    cfg = {"default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 2}},
           "train_cfg": {"by_epoch": True, "max_epochs": 3}, "custom_hooks": [{"type": "EMAHook"}]}  # fmt: skip
    use_own_hooks(cfg, context())
    use_own_loop(cfg, context())
    assert cfg["default_hooks"]["checkpoint"] == {"type": "BestCheckpointHook", "interval": 2}
    assert cfg["default_hooks"]["logger"] == {"type": "RunLogHook"}
    assert cfg["default_hooks"]["sampler_seed"] is None
    assert cfg["train_cfg"] == {"type": "PairedEpochLoop", "max_epochs": 3}
    with pytest.raises(ConfigError, match="IterBasedTrainLoop"):
        use_own_loop({"train_cfg": {"type": "IterBasedTrainLoop"}}, context())


def test_seed_and_backend_have_values():
    cfg = {}
    assert need_seed(cfg, context())
    assert cfg["randomness"]["seed"] == 0
    choose_backend(cfg, context())
    assert cfg["env_cfg"]["dist_cfg"]["backend"] == "gloo"


def test_a_config_in_order_passes_every_rule_unchanged():
    cfg = {"randomness": {"seed": 0}, "model": {}, "train_cfg": {"type": "PairedEpochLoop", "max_epochs": 12}}
    assert apply_rules(cfg, context(before=cfg), RULES) == []
    assert apply_rules(cfg, context(before=cfg), TEST_RULES) == []


# --- data ---


def test_roots_are_spread_and_checked(tmp_path):
    def cfg(root):
        inner = {"type": "KAISTDataset", "data_root": None}
        return {"data_root": root, "train_dataloader": {"dataset": {"type": "ConcatDataset", "datasets": [inner]}}}

    there = cfg(str(tmp_path))
    spread_root(there)
    assert [one["data_root"] for one in datasets_of(there)] == [str(tmp_path)]
    assert find_data(there, tmp_path) == []
    assert there["embedded_world"] is False
    with pytest.raises(DataError, match="is not a folder"):
        find_data(cfg(str(tmp_path / "missing")), tmp_path)
    with pytest.raises(ConfigError, match="data_root is not set"):
        find_data({**cfg(None), "embedded": None}, tmp_path)
    with pytest.raises(ConfigError, match="pears"):
        find_data({**cfg(None), "embedded": {"pears": 3}}, tmp_path)


def test_the_embedded_world_is_drawn_and_told(tmp_path):
    loader = {"dataset": {"type": "LLVIPDataset", "data_root": None}}
    cfg = {"train_dataloader": loader, "embedded": {"pairs": [2, 1], "size_hw": [64, 80]}}
    messages = find_data(cfg, tmp_path)
    assert messages[0].startswith("EMBEDDED WORLD")
    assert cfg["embedded_world"] is True
    root = loader["dataset"]["data_root"]
    assert root.startswith(str(tmp_path / "data" / "embedded"))
    assert (tmp_path / "data" / "embedded").is_dir()


# --- schedules ---


class Chained:
    """Multiplies the rate by 0.5 a step, as a scheduler of MMEngine does."""

    def __init__(self, optimizer, by_epoch, end=3):
        self.optimizer, self.by_epoch, self.end = optimizer, by_epoch, end

    def step(self):
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.5 if self.by_epoch else 0.9


def test_replay_ends_at_the_rate_of_an_uncut_run():
    def fresh():
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)

    uncut = fresh()
    for epoch in range(2):
        for batch in range(4):
            if (epoch, batch) < (1, 2):
                Chained(uncut, False).step()
        if epoch == 0:
            Chained(uncut, True).step()
    resumed = fresh()
    replay([Chained(resumed, False), Chained(resumed, True)], resumed, epochs=1, iterations=6, epoch_length=4)
    assert resumed.param_groups[0]["lr"] == uncut.param_groups[0]["lr"]
    assert differences(settings_of(resumed), settings_of(uncut)) == []
    assert differences(settings_of(fresh()), settings_of(uncut))[0].startswith("lr: 0.1 -> ")


class LinearLR(Chained):
    """Named as the warm-up is."""


def test_a_warmup_longer_than_the_run_is_told():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    assert "500" in warmup_warning([LinearLR(optimizer, False, 500)], 396)
    assert warmup_warning([LinearLR(optimizer, False, 500)], 500) is None
    assert warmup_warning([LinearLR(optimizer, True, 500)], 5) is None
