"""Self-checks of a config: does it build, does a step work, does every module learn?

    python verify_stage1.py              build, synthetic pairs, one backward pass, gradient norms of every module
    python test_forward_kaist.py         stage 2 on one pair: a training step and a prediction with a batch of 1
    python grad_flow_check.py            a single sample of the data set; a module without gradient is an error

Exit codes: 0 all is well, 1 a check failed, 2 something to mend before anything can be checked (a config, data). The
weights are random unless `--checkpoint` gives some; nothing is written but the embedded world.
"""

# B pairs, H W pixels

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PACKAGE_ROOT = Path(__file__).parents[1]
STAGE1 = PACKAGE_ROOT / "configs/llvip/stage1_llvip_pretrain.py"
STAGE2 = PACKAGE_ROOT / "configs/llvip/stage2_kaist_domain_ft_nodomain.py"
DEPTH = 2  # parts of a parameter's name that make a module of the table: backbone.layer1


@dataclass(frozen=True)
class Flow:
    """The gradient of one module: Euclidean norm over its trainable tensors; tensors without any gradient, by name."""

    norm: float
    tensors: int
    without: tuple[str, ...]

    @property
    def fault(self) -> str | None:
        """Why the module does not learn; None when it does."""
        if not math.isfinite(self.norm):
            return "its gradient is not finite"
        if len(self.without) == self.tensors:
            return "no gradient reaches it"
        return "its gradient is exactly 0" if self.norm == 0 else None


# --- data -------------------------------------------------------------------------------------------------------------


def synthetic_batch(count: int, size_hw: tuple[int, int], seed: int = 0, persons: int = 3) -> dict[str, Any]:
    """B packed pairs of noise with bright boxes for persons, as a loader would give them.

    Returns {"inputs": [(3,H,W) uint8], "inputs_ir": [(3,H,W) uint8], "data_samples": [DetDataSample]}.
    """
    generator = torch.Generator().manual_seed(seed)
    items = [_synthetic_pair(number, size_hw, persons, generator) for number in range(count)]
    return {key: [item[key] for item in items] for key in items[0]}


def _synthetic_pair(number: int, size_hw: tuple[int, int], persons: int, generator: torch.Generator) -> dict[str, Any]:
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmengine.structures import InstanceData

    height, width = size_hw
    vis, ir = (torch.randint(0, 120, (3, height, width), generator=generator, dtype=torch.uint8) for _ in range(2))
    tall, wide = height // 3, height // 7
    left = torch.randint(0, width - wide, (persons,), generator=generator)
    top = torch.randint(0, height - tall, (persons,), generator=generator)
    boxes = torch.stack([left, top, left + wide, top + tall], 1)
    for x1, y1, x2, y2 in boxes.tolist():
        vis[:, y1:y2, x1:x2] += 60
        ir[:, y1:y2, x1:x2] += 120
    name = f"synthetic pair {number}"
    meta = {"img_id": number, "img_path": name, "img_ir_path": name, "pair_name": name, "img_shape": size_hw,
            "ori_shape": size_hw, "scale_factor": (1.0, 1.0), "instances": []}  # fmt: skip
    sample = DetDataSample(metainfo=meta)
    labels = torch.zeros(persons, dtype=torch.long)
    sample.gt_instances = InstanceData(bboxes=HorizontalBoxes(boxes.float()), labels=labels)
    sample.ignored_instances = InstanceData(bboxes=HorizontalBoxes(torch.zeros(0, 4)), labels=labels[:0])
    return {"inputs": vis, "inputs_ir": ir, "data_samples": sample}


def fullest_sample(dataset: Any) -> int:
    """The index of the sample with the most persons. DataError when none has any."""
    from shared.errors import DataError

    counts = [sum(not one["ignore_flag"] for one in dataset.get_data_info(index)["instances"])
              for index in range(len(dataset))]  # fmt: skip
    if not any(counts):
        raise DataError(f"{dataset.root} has no person in any sample: no gradient can come from it.")
    return counts.index(max(counts))


def single_sample(cfg: Any) -> dict[str, Any]:
    """A batch of one: the sample of the training set that shows most persons, through its pipeline."""
    from mmdet.registry import DATASETS
    from mmengine.dataset import pseudo_collate

    from .data.randomness import SampleKey
    from .runtime.embedded import find_data

    for message in find_data(cfg, PACKAGE_ROOT):
        print(message)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    return pseudo_collate([dataset[SampleKey(fullest_sample(dataset), 0, 0)]])


# --- a step -----------------------------------------------------------------------------------------------------------


def step(model: nn.Module, batch: Mapping[str, Any], seed: int = 0) -> tuple[Tensor, dict[str, float]]:
    """A forward and a backward pass in training mode: (total loss, every value by name). Gradients stay in the model.

    Raises NonFiniteError when a loss is not finite, naming it.
    """
    torch.manual_seed(seed)
    model.train()
    model.zero_grad(set_to_none=True)
    data = model.data_preprocessor(dict(batch), True)
    losses = model(**data, mode="loss")
    total, values = model.parse_losses(losses)
    total.backward()
    model.after_backward()
    return total.detach(), {name: float(value.detach()) for name, value in values.items()}


def flows(model: nn.Module, depth: int = DEPTH) -> dict[str, Flow]:
    """The gradient of every module with trainable tensors, by the first `depth` parts of its name."""
    tensors: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors.setdefault(".".join(name.split(".")[:depth]), []).append((name, parameter))
    return {module: _flow(parameters) for module, parameters in tensors.items()}


def _flow(parameters: Sequence[tuple[str, nn.Parameter]]) -> Flow:
    gradients = [parameter.grad for _, parameter in parameters if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
    return Flow(norm, len(parameters), tuple(name for name, parameter in parameters if parameter.grad is None))


def table(found: Mapping[str, Flow]) -> list[str]:
    """For people: a line a module."""
    lines = [f"{'module':<34}{'gradient norm':>14}{'tensors':>9}"]
    for name, flow in found.items():
        lines.append(f"{name:<34}{flow.norm:>14.4g}{flow.tensors:>9}{f'   FAULT: {flow.fault}' if flow.fault else ''}")
    return lines


def sum_fault(total: Tensor, values: Mapping[str, float]) -> str | None:
    """A loss counted twice, or not at all; None when the named losses add up to the total."""
    named = sum(value for name, value in values.items() if "loss" in name and name != "loss")
    if math.isclose(float(total), named, rel_tol=1e-4):
        return None
    return f"the named losses add up to {named:.6g}, the total is {float(total):.6g}"


# --- the commands -----------------------------------------------------------------------------------------------------


def parser(program: str, description: str, config: Path) -> argparse.ArgumentParser:
    """What the three commands have in common."""
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument("config", nargs="?", default=str(config), help=f"(default: {config.relative_to(PACKAGE_ROOT)})")
    made.add_argument("--checkpoint", help="weights to start from (default: random ones)")
    made.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    return made


def opened(args: argparse.Namespace) -> tuple[Any, nn.Module]:
    """Config and model of a command, its weights as the command says, seeded."""
    from .inference import build_model, model_config
    from .runtime.checkpoints import read_weights
    from .runtime.console import quiet_imports

    with quiet_imports():
        cfg = model_config(args.config, args.cfg_options, args.checkpoint)
    model = build_model(cfg)
    if args.checkpoint:
        from shared.loading import load_into

        rules = {key: value for key, value in (cfg.get("load_rules") or {}).items() if key.startswith("allow_")}
        print(load_into(model, read_weights(args.checkpoint)[0], **rules))
    return cfg, model


def verdict(faults: Sequence[str], fine: str) -> int:
    """Print what failed, or that all is well; the exit code."""
    for fault in faults:
        print(f"FAILED: {fault}")
    if not faults:
        print(f"OK: {fine}")
    return 1 if faults else 0


def check_flow(model: nn.Module, batch: Mapping[str, Any], fine: str) -> int:
    """One step; prints losses and the table of modules. 1 when a module gets no gradient or losses do not add up."""
    total, values = step(model, batch)
    print("  ".join(f"{name} {value:.4g}" for name, value in values.items()))
    found = flows(model)
    print("\n".join(table(found)))
    faults = [f"{name}: {flow.fault}" for name, flow in found.items() if flow.fault]
    wrong = sum_fault(total, values)
    return verdict([*faults, *([wrong] if wrong else [])], fine)


def verify_stage1(argv: Sequence[str] | None = None) -> int:
    """verify_stage1.py: build, synthetic pairs, gradients."""
    flags = parser("verify_stage1.py", "Build a config and send synthetic gradients through it", STAGE1)
    flags.add_argument("--size", type=int, nargs=2, default=(256, 320), metavar=("H", "W"), help="(default: 256 320)")
    flags.add_argument("--batch", type=int, default=2, help="pairs (default: 2)")
    args = flags.parse_args(argv)
    return _run(lambda: _verify(args))


def _verify(args: argparse.Namespace) -> int:
    from shared.errors import ConfigError

    if args.batch < 1 or min(args.size) < 64:
        raise ConfigError(f"--batch {args.batch} --size {args.size}: at least one pair of 64 x 64 pixels.")
    _, model = opened(args)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{Path(args.config).name}: {type(model).__name__}, {count / 1e6:.2f} million parameters")
    batch = synthetic_batch(args.batch, tuple(args.size))
    return check_flow(model, batch, "the model builds, its losses add up, every trainable module gets a gradient")


def forward_kaist(argv: Sequence[str] | None = None) -> int:
    """test_forward_kaist.py: stage 2 with a batch of one."""
    args = parser(
        "test_forward_kaist.py", "One KAIST pair through stage 2: training step, prediction", STAGE2
    ).parse_args(argv)
    return _run(lambda: _forward(args))


def _forward(args: argparse.Namespace) -> int:
    cfg, model = opened(args)
    batch = single_sample(cfg)
    total, values = step(model, batch)
    print("  ".join(f"{name} {value:.4g}" for name, value in values.items()))
    faults = [] if torch.isfinite(total) else [f"the loss is {float(total)}"]
    model.eval()
    with torch.no_grad():
        (sample,) = model(**model.data_preprocessor(dict(batch), False), mode="predict")
    found = sample.pred_instances
    print(f"prediction: {len(found)} boxes in {sample.img_path}")
    if not (torch.isfinite(found.bboxes).all() and torch.isfinite(found.scores).all()):
        faults.append("a predicted box or score is not finite")
    wrong = sum_fault(total, values)
    return verdict([*faults, *([wrong] if wrong else [])], "a batch of one trains and predicts")


def grad_flow(argv: Sequence[str] | None = None) -> int:
    """grad_flow_check.py: a single sample of the training set."""
    flags = parser("grad_flow_check.py", "Does a gradient of a single sample reach every module?", STAGE1)
    args = flags.parse_args(argv)
    return _run(lambda: _grad_flow(args))


def _grad_flow(args: argparse.Namespace) -> int:
    cfg, model = opened(args)
    return check_flow(model, single_sample(cfg), "a single sample's gradient reaches every trainable module")


def _run(body: Any) -> int:
    from shared.run import run_command

    return run_command(body)
