"""What a config must satisfy before anything is built from it, one small rule after another.

    messages = apply_rules(cfg, Context(explicit=..., before=..., cuda=True, amp=args.amp), RULES)

A rule takes the config (nested tables, changed in place) and the context, and returns the messages that say what it
changed; what cannot be mended raises ConfigError. Every rule answers one thing that MMEngine would get wrong silently
or with a traceback far from its cause.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import ConfigError

from .cfg_options import constructor_accepts, nearest
from .embedded import LOADERS, datasets_of

# Top-level keys of mmdet 2.x, which MMEngine ignores without a word.
MMDET2_KEYS = ("data", "optimizer", "optimizer_config", "lr_config", "runner", "total_epochs", "evaluation",
               "checkpoint_config", "log_config", "workflow")  # fmt: skip
# Arguments of some torch optimizer: left over when another one is chosen, they are dropped; any other is a mistake.
OPTIMIZER_KEYS = {"momentum", "dampening", "nesterov", "betas", "eps", "amsgrad", "alpha", "centered", "rho",
                  "lr_decay", "initial_accumulator_value", "momentum_decay", "decoupled_weight_decay"}  # fmt: skip
STOCK_HOOKS = {"CheckpointHook": "BestCheckpointHook", "LoggerHook": "RunLogHook"}
STOCK_LOOPS = (None, "EpochBasedTrainLoop", "PairedEpochLoop")
ADDRESSES = ("http://", "https://", "torchvision://", "open-mmlab://", "openmmlab://", "mmcls://", "jhu://")
TRAIN, TEST = LOADERS[:1], LOADERS[1:]
DATA_VARIABLES = {  # variable of a config file -> the entry of the data sets that takes it, and in which loaders
    "train_pipeline": ("pipeline", TRAIN),
    "test_pipeline": ("pipeline", TEST),
    "train_list": ("ann_file", TRAIN),
    "test_list": ("ann_file", TEST),
    "train_annotations": ("annotations", TRAIN),
    "test_annotations": ("annotations", TEST),
    "train_label_version": ("label_version", TRAIN),
    "test_label_version": ("label_version", TEST),
    "label_version": ("label_version", LOADERS),
}
GROUPS = 32  # of GroupNorm when nobody says

Table = MutableMapping[str, Any]


@dataclass(frozen=True)
class Context:
    """What a rule may know beside the config."""

    explicit: frozenset[str] = frozenset()  # dotted keys of --cfg-options
    before: Mapping[str, Any] = field(default_factory=dict)  # the config as its files give it
    cuda: bool = False
    amp: bool = False  # --amp
    scale_lr: bool = False  # --auto-scale-lr
    accepts: Callable[[Any, str], bool] = constructor_accepts

    def is_set(self, *keys: str) -> bool:
        """Whether one of the keys, or something inside it, was given on the command line."""
        return any(name == key or name.startswith(f"{key}.") for key in keys for name in self.explicit)


Rule = Callable[[Table, Context], list[str]]


def apply_rules(cfg: Table, context: Context, rules: Sequence[Rule]) -> list[str]:
    """Every rule in order; the messages of what they changed.

    Raises:
        ConfigError: of the first rule that cannot mend what it found.
    """
    return [message for rule in rules for message in rule(cfg, context)]


# --- the whole file ---------------------------------------------------------------------------------------------------


def refuse_mmdet2(cfg: Table, context: Context) -> list[str]:
    """A block such as `data=dict(...)` would be ignored, and the base's data set trained on instead."""
    old = [key for key in MMDET2_KEYS if isinstance(cfg.get(key), Mapping | list | int)]
    if old:
        raise ConfigError(
            f"the config sets {', '.join(old)}: keys of mmdet 2.x, which MMEngine ignores. Write train_dataloader, "
            "val_dataloader, test_dataloader for `data`, optim_wrapper for `optimizer`, param_scheduler for "
            "`lr_config`, and train_cfg.max_epochs for `runner`."
        )
    return []


def need_seed(cfg: Table, context: Context) -> list[str]:
    """Without a seed no run can be repeated or resumed exactly."""
    randomness = cfg.setdefault("randomness", {})
    if randomness.get("seed") is not None:
        return []
    randomness["seed"] = 0
    return ["randomness.seed is not set: 0 is used, so that the run can be repeated"]


NUMBERS = {  # key -> (kind, least value): what MMEngine would only notice far from the config
    "train_cfg.max_epochs": (int, 1),
    "train_cfg.val_interval": (int, 1),
    "optim_wrapper.optimizer.lr": (float, 0),
    **{f"{loader}.batch_size": (int, 1) for loader in LOADERS},
    **{f"{loader}.num_workers": (int, 0) for loader in LOADERS},
}


def check_numbers(cfg: Table, context: Context) -> list[str]:
    """Numbers that are strings, or too small."""
    for key, (kind, least) in NUMBERS.items():
        table, *rest = key.split(".")
        value: Any = cfg.get(table)
        for part in rest:
            value = value.get(part) if isinstance(value, Mapping) else None
        right = isinstance(value, int | kind) and not isinstance(value, bool) and value >= least
        if value is not None and not right:
            what = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{key} is {value!r}: it must be {what} of at least {least}.")
    return []


# --- model ------------------------------------------------------------------------------------------------------------


def merge_macl_head(cfg: Table, context: Context) -> list[str]:
    """The top-level `macl_head` is merged into the RoI head; None switches the head off."""
    roi_head = cfg.get("model", {}).get("roi_head")
    if "macl_head" not in cfg or not isinstance(roi_head, Mapping):
        return []
    chosen, inner = cfg["macl_head"], roi_head.get("macl_head")
    modality = cfg["model"].get("modality", "both")
    if modality != "both" and inner is None and chosen is not None and not context.is_set("macl_head"):
        return [f"model.modality is {modality}: one stream has nothing to align, so macl_head is left out"]
    if chosen is None:
        roi_head["macl_head"] = None
        return ["macl_head is None: no contrastive loss"] if inner is not None else []
    given = {key: value for key, value in chosen.items() if not context.is_set(f"model.roi_head.macl_head.{key}")}
    roi_head["macl_head"] = {**(inner or {}), **given}
    return []


def spread_norm(cfg: Table, context: Context) -> list[str]:
    """`norm_cfg` given at the top goes to the backbone: as a variable of the file it would reach nothing."""
    backbone = cfg.get("model", {}).get("backbone")
    if not context.is_set("norm_cfg") or not isinstance(backbone, Mapping):
        return []
    backbone["norm_cfg"] = {**(backbone.get("norm_cfg") or {}), **cfg["norm_cfg"]}
    return [f"model.backbone.norm_cfg = {dict(backbone['norm_cfg'])}, from norm_cfg"]


def complete_group_norm(cfg: Table, context: Context) -> list[str]:
    """GN needs `num_groups`, and torchvision's weights are of BN."""
    backbone = cfg.get("model", {}).get("backbone")
    norm = backbone.get("norm_cfg") if isinstance(backbone, Mapping) else None
    if not norm or norm.get("type") != "GN":
        return []
    messages = []
    if "num_groups" not in norm:
        norm["num_groups"] = GROUPS
        messages.append(f"model.backbone.norm_cfg.num_groups is not set: {GROUPS}")
    init = backbone.get("init_cfg") or {}
    if str(init.get("checkpoint", "")).startswith("torchvision://"):
        backbone["init_cfg"] = None
        messages.append(f"model.backbone starts from random weights: {init['checkpoint']} has BN, the backbone GN. "
                        "Name weights with GN in model.backbone.init_cfg.checkpoint to start from them")  # fmt: skip
        if backbone.get("frozen_stages", -1) >= 0:
            backbone["frozen_stages"] = -1
            messages.append("model.backbone.frozen_stages = -1: random weights are not worth freezing")
    return messages


def check_anchor_strides(cfg: Table, context: Context) -> list[str]:
    """One stride of the anchors for every level of the pyramid."""
    model = cfg.get("model", {})
    levels = (model.get("neck") or {}).get("num_outs")
    strides = ((model.get("rpn_head") or {}).get("anchor_generator") or {}).get("strides")
    if levels is None or strides is None or len(strides) == levels:
        return []
    right = [4 * 2**level for level in range(levels)]
    raise ConfigError(
        f"model.neck.num_outs is {levels}, and model.rpn_head.anchor_generator.strides has {len(strides)} values "
        f"({list(strides)}): one anchor stride for every level. Set model.rpn_head.anchor_generator.strides={right}."
    )


# --- optimizer and precision ------------------------------------------------------------------------------------------


def drop_foreign_optimizer_keys(cfg: Table, context: Context) -> list[str]:
    """`type=AdamW` merged over SGD keeps `momentum`, which AdamW does not take."""
    optimizer = (cfg.get("optim_wrapper") or {}).get("optimizer")
    if not isinstance(optimizer, Mapping) or "type" not in optimizer:
        return []
    kind = optimizer["type"]
    unknown = [key for key in optimizer if key != "type" and not context.accepts(kind, key)]
    for key in unknown:
        if key not in OPTIMIZER_KEYS or context.is_set(f"optim_wrapper.optimizer.{key}"):
            near = nearest(key, [*optimizer, *OPTIMIZER_KEYS, "lr", "weight_decay"])
            hint = next((f" Did you mean {name}?" for name in near if name != key), "")
            raise ConfigError(f"optim_wrapper.optimizer.{key}: {kind} takes no such argument.{hint} Leave it out.")
    dropped = {key: optimizer.pop(key) for key in unknown}
    if not dropped:
        return []
    values = ", ".join(f"{key}={value}" for key, value in dropped.items())
    return [f"optim_wrapper.optimizer: {values} dropped, which {kind} does not take"]


def choose_precision(cfg: Table, context: Context) -> list[str]:
    """--amp (or AmpOptimWrapper) without CUDA is fp32 with a warning; with CUDA it is MMEngine's."""
    wrapper = cfg.get("optim_wrapper")
    if wrapper is None:
        return []
    kind = wrapper.get("type", "OptimWrapper")
    if context.amp and kind not in ("OptimWrapper", "AmpOptimWrapper"):
        raise ConfigError(f"--amp: optim_wrapper.type is {kind}, which has no mixed precision; use OptimWrapper.")
    if not context.amp and kind != "AmpOptimWrapper":
        return []
    if context.cuda:
        wrapper["type"] = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
        return []
    wrapper["type"] = "OptimWrapper"
    for key in ("loss_scale", "dtype", "use_fsdp"):
        wrapper.pop(key, None)
    return ["WARNING: mixed precision needs a CUDA device and there is none: this run trains in float32"]


def scale_rate(cfg: Table, context: Context) -> list[str]:
    """--auto-scale-lr needs to know the batch size that the rate is meant for."""
    if not context.scale_lr:
        return []
    scaling = cfg.get("auto_scale_lr")
    if not isinstance(scaling, Mapping) or "base_batch_size" not in scaling:
        raise ConfigError("--auto-scale-lr: the config has no auto_scale_lr.base_batch_size; set it (mmdet's is 16).")
    scaling["enable"] = True
    return []


# --- schedule ---------------------------------------------------------------------------------------------------------


def schedulers_of(cfg: Mapping) -> Iterator[tuple[str, Table]]:
    """(dotted key, scheduler) of the config's parameter schedulers."""
    schedulers = cfg.get("param_scheduler")
    if isinstance(schedulers, Mapping):
        yield "param_scheduler", schedulers
    else:
        yield from ((f"param_scheduler.{index}", one) for index, one in enumerate(schedulers or ()))


def follow_max_epochs(cfg: Table, context: Context) -> list[str]:
    """`end` and `T_max` of epoch schedulers move with train_cfg.max_epochs unless they were set explicitly.

    One that ended with the run, or before a milestone of its own (which it would never reach), ends with the new run.
    """
    epochs = (cfg.get("train_cfg") or {}).get("max_epochs")
    before = (context.before.get("train_cfg") or {}).get("max_epochs")
    messages = []
    for where, scheduler in schedulers_of(cfg):
        for key in ("end", "T_max"):
            value = scheduler.get(key)
            late = key == "end" and any(milestone >= value for milestone in scheduler.get("milestones", ()) if value)
            if epochs is None or value is None or not scheduler.get("by_epoch", True) or value == epochs:
                continue
            if (value == before or late) and not context.is_set(f"{where}.{key}"):
                scheduler[key] = epochs
                messages.append(f"{where}.{key}: {value} -> {epochs}, to follow train_cfg.max_epochs")
    return messages


def warn_of_idle_milestones(cfg: Table, context: Context) -> list[str]:
    """A milestone after the run's last epoch does nothing."""
    epochs = (cfg.get("train_cfg") or {}).get("max_epochs")
    return [
        f"WARNING: {where}.milestones {list(scheduler['milestones'])}: the run ends after {epochs} epochs, so not all "
        "of them are reached"
        for where, scheduler in schedulers_of(cfg)
        if epochs is not None and scheduler.get("by_epoch", True)
        and any(milestone >= epochs for milestone in scheduler.get("milestones", ()))
    ]  # fmt: skip


# --- data -------------------------------------------------------------------------------------------------------------


def spread_data_variables(cfg: Table, context: Context) -> list[str]:
    """Variables such as `train_pipeline` given as options go to the data sets: alone they would reach nothing."""
    for name in filter(context.is_set, DATA_VARIABLES):
        key, loaders = DATA_VARIABLES[name]
        takers = [one for one in datasets_of({loader: cfg.get(loader) for loader in loaders}) if key in one]
        if not takers:
            raise ConfigError(f"{name}: no data set of {', '.join(loaders)} has an entry {key} that could take it; "
                              "set the data set's own entry.")  # fmt: skip
        for dataset in takers:
            dataset[key] = cfg[name]
    return []


def adjust_workers(cfg: Table, context: Context) -> list[str]:
    """Loading in the main process has no workers that could persist or prefetch."""
    messages = []
    for name in LOADERS:
        loader = cfg.get(name)
        if not isinstance(loader, Mapping) or loader.get("num_workers", 0) > 0:
            continue
        if loader.get("persistent_workers"):
            loader["persistent_workers"] = False
            messages.append(f"{name}: num_workers is 0, so persistent_workers is False")
        if loader.pop("prefetch_factor", None) is not None:
            messages.append(f"{name}: num_workers is 0, so prefetch_factor is dropped")
    return messages


# --- weights and hooks ------------------------------------------------------------------------------------------------


def check_load_from(cfg: Table, context: Context) -> list[str]:
    """A missing file: which best_*.pth there are instead (their names hold a loss that no other run has)."""
    source = cfg.get("load_from")
    if source is None or str(source).startswith(ADDRESSES) or Path(source).expanduser().is_file():
        return []
    found = best_files(Path(source).expanduser().parent)
    there = (
        f"There is {', '.join(map(str, found))}: give that."
        if found
        else "No best_*.pth lies there; is the run finished?"
    )
    raise ConfigError(f"load_from: {source} does not exist. {there}")


def best_files(folder: Path) -> list[Path]:
    """best*.pth of a folder, or of its neighbours when it has none, newest first."""
    here = list(folder.glob("best*.pth")) if folder.is_dir() else []
    beside = list(folder.parent.glob("*/best*.pth")) if not here and folder.parent.is_dir() else []
    return sorted([*here, *beside], key=lambda path: path.stat().st_mtime if path.exists() else 0, reverse=True)


def use_own_hooks(cfg: Table, context: Context) -> list[str]:
    """Checkpoints and records are written by this package's hooks, which take the stock ones' arguments."""
    hooks = cfg.setdefault("default_hooks", {})
    hooks.setdefault("checkpoint", {"type": "CheckpointHook", "interval": 1})
    hooks.setdefault("logger", {"type": "LoggerHook"})
    hooks["sampler_seed"] = None  # the loop moves the sampler
    for hook in [*hooks.values(), *(cfg.get("custom_hooks") or ())]:
        if isinstance(hook, Mapping) and hook.get("type") in STOCK_HOOKS:
            hook["type"] = STOCK_HOOKS[hook["type"]]
    return []


def use_own_loop(cfg: Table, context: Context) -> list[str]:
    """Exact resume and the non-finite check live in PairedEpochLoop."""
    train = cfg.get("train_cfg")
    if train is None:
        return []
    by_epoch = train.pop("by_epoch", True)
    if train.get("type") not in STOCK_LOOPS or not by_epoch:
        raise ConfigError(f"train_cfg: {train.get('type') or 'by_epoch=False'} is not supported; train by epochs "
                          "(train_cfg = dict(type='PairedEpochLoop', max_epochs=12)).")  # fmt: skip
    train["type"] = "PairedEpochLoop"
    return []


def choose_backend(cfg: Table, context: Context) -> list[str]:
    """Processes without CUDA talk over gloo."""
    settings = cfg.setdefault("env_cfg", {}).setdefault("dist_cfg", {"backend": "nccl"})
    if not context.cuda and settings.get("backend", "nccl") == "nccl":
        settings["backend"] = "gloo"
    return []


# What concerns a model and its data, and not how it is trained.
TEST_RULES: tuple[Rule, ...] = (
    refuse_mmdet2,
    check_numbers,
    need_seed,
    spread_data_variables,
    merge_macl_head,
    spread_norm,
    complete_group_norm,
    check_anchor_strides,
    check_load_from,
    use_own_hooks,
    use_own_loop,
    choose_backend,
)
RULES: tuple[Rule, ...] = (
    *TEST_RULES,
    drop_foreign_optimizer_keys,
    choose_precision,
    scale_rate,
    follow_max_epochs,
    warn_of_idle_milestones,
    adjust_workers,
)
