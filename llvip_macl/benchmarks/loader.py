"""Can two workers feed the training step? Pairs per second of the loader against those of the step, in one run.

    python benchmarks/loader.py

The loader is the one of configs/embedded/stage1.py (decode both jpgs, resize, flip, colour, pack) with two workers on
the drawn LLVIP scenes, or with --config and --cfg-options any other. The step is the same config's model on one of its
batches. Loader and step take turns; wall times, since workers are processes of their own. Target: 1.5 times as fast.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llvip_macl.inference import build_model, model_config
from llvip_macl.self_checks import PACKAGE_ROOT
from shared.benchmark import compared, judged, median_ratio, parse_options, run_benchmark
from shared.errors import ConfigError

OUT = Path(__file__).parent / "results" / "loader.json"
CONFIG = PACKAGE_ROOT / "configs/embedded/stage1.py"
TARGET = 1.5
BATCHES = 40  # of a round, timed after the first two, which start the workers
STEPS = 4


def loader_of(cfg: Any, workers: int) -> Any:
    """The training loader with so many workers."""
    from llvip_macl.runtime.embedded import find_data
    from llvip_macl.runtime.loader import build_loader

    for message in find_data(cfg, PACKAGE_ROOT):
        print(message)
    return build_loader({**cfg.train_dataloader, "num_workers": workers}, seed=0)


def seconds_a_batch(loader: Any, batches: int) -> float:
    """Wall seconds between batches when nothing but the loader works."""
    started, number = 0.0, 0
    for number, _ in enumerate(loader):
        if number == 1:
            started = time.perf_counter()
        if number == batches + 1:
            break
    return (time.perf_counter() - started) / (number - 1)


def seconds_a_step(model: Any, optimizer: torch.optim.Optimizer, batch: Any, steps: int) -> float:
    """Median wall seconds of a training step."""
    spent = []
    for _ in range(steps):
        started = time.perf_counter()
        optimizer.zero_grad()
        data = model.data_preprocessor(dict(batch), True)
        model.parse_losses(model(**data, mode="loss"))[0].backward()
        model.after_backward()
        optimizer.step()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def benchmark(args: argparse.Namespace) -> dict[str, object]:
    cfg = model_config(str(args.config), args.cfg_options)
    loader = loader_of(cfg, args.workers)
    if len(loader) < 4:
        raise ConfigError(f"an epoch has {len(loader)} batches, too few to time: give more pairs (embedded.pairs).")
    wanted, steps, number = (4, 1, 1) if args.quick else (BATCHES, STEPS, args.rounds)
    batches = min(wanted, len(loader) - 2)
    model = build_model(cfg).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
    batch = next(iter(loader))
    seconds_a_step(model, optimizer, batch, 1)
    rounds = [(seconds_a_batch(loader, batches), seconds_a_step(model, optimizer, batch, steps))
              for _ in range(number)]  # fmt: skip
    ratio = median_ratio([step for _, step in rounds], [load for load, _ in rounds])
    load, step = (1000 * statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"a batch of {len(batch['inputs'])} pairs: loaded in {load:.1f} ms by {args.workers} workers, trained on in "
          f"{step:.1f} ms: {ratio} x the step's need (target {TARGET}: "
          f"{judged(ratio >= TARGET, quick=args.quick)})")  # fmt: skip
    row = compared(f"a batch of {len(batch['inputs'])} pairs: loaded by {args.workers} workers against trained on",
                   step, load, "ms", ratio, at_least=TARGET)  # fmt: skip
    return {"workers": args.workers, "pairs": len(batch["inputs"]), "rounds_loader_step_s": rounds, "ratio": ratio,
            "target": TARGET, "config": Path(args.config).name, "ratios": [row]}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", type=Path, default=CONFIG, help="(default: configs/embedded/stage1.py)")
    add("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    add("--workers", type=int, default=2, help="(default: 2)")
    add("--rounds", type=int, default=5, help="(default: 5)")
    args = parse_options(parser, argv, quick="one short round: it runs, and measures little")
    return run_benchmark(benchmark, args, OUT)


if __name__ == "__main__":
    sys.exit(main())
