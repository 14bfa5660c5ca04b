"""The smallest training command that `shared` can run: a linear model, its dropout, a weights file.

    python linear_command.py --results DIR [--run NAME] [--seed N] [--workers N] [--batch N]
    python linear_command.py --results DIR --judge N          scores of the finished run t on N samples
    python linear_command.py --results DIR --export           its weights as text, in exported/

What `test_shared_faults.py` puts through the faults, and how little a package needs to join them.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from shared import checkpoint, run
from shared.ema import Ema
from shared.loop import Loop, LoopSettings
from shared.metrics import RunningMeans
from shared.optim import lr_groups, warmup_cosine

SAMPLES, BATCH = 14, 5  # of a step, in two halves: 3 steps an epoch
WEIGHTS = "weights.pt"


class Points(torch.utils.data.Dataset):
    """y = the sum of x, with noise drawn for each sample and epoch."""

    def __init__(self, seed: int, noise: float):
        self.seed, self.noise = seed, noise

    def __getitem__(self, key):
        epoch, index = key
        x = torch.linspace(-1, 1, 4) * (index + 1) / SAMPLES
        y = x.sum() + index % 3 + self.noise * run.sample_rng(self.seed, epoch, index).normal()
        return {"index": index, "x": x.float(), "y": y.float()}


class Halves:
    """Batches of `batch` samples in order, each in two halves (one optimizer step), shared among the processes."""

    def __init__(self, samples: int, batch: int, world: run.World):
        cuts = [(first, min(first + batch, samples)) for first in range(0, samples, batch)]
        self.parts = [
            part for low, high in cuts for part in (range(low, (low + high) // 2), range((low + high) // 2, high))
        ]
        self.world, self.epoch, self.first = world, 0, 0

    def set_position(self, epoch: int, first: int) -> None:
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self):
        for part in self.parts[self.first :]:
            yield [(self.epoch, index) for index in part[self.world.rank :: self.world.size]]


def prepare(seed: int) -> Points:
    """The training samples."""
    return Points(seed, noise=0.1)


def losses(predicted: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    error = predicted.squeeze(1) - y
    return {"square": error.square().mean(), "absolute": error.abs().mean(), "size": predicted.square().mean()}


def judge(model: nn.Module, samples: int, world: run.World) -> dict[str, float]:
    """Means over `samples` samples without noise, each process taking every other one."""
    model.eval()
    means, points = RunningMeans(), Points(0, noise=0.0)
    mine = [points[0, index] for index in range(samples)][world.rank :: world.size]
    if mine:
        with torch.no_grad():
            terms = losses(model(torch.stack([one["x"] for one in mine])), torch.stack([one["y"] for one in mine]))
        means.update(terms, len(mine))
    return means.compute(world)


def train(args: argparse.Namespace, world: run.World, folder: run.RunFolder) -> None:
    run.seed_everything(args.seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    wrapped = DistributedDataParallel(model) if world.size > 1 else model
    sampler = Halves(SAMPLES, args.batch, world)
    groups = lr_groups(model, 0.05, {"0.*": 0.1})
    weights = {"square": 1.0, "absolute": 0.5, "size": 0.01}
    loop = Loop(stage="line", run=folder, world=world, model=wrapped, optimizer=torch.optim.AdamW(groups),
                schedule=warmup_cosine, weights=weights, sampler=sampler, settings=LoopSettings(2, 2, 1.0, 1, 1, 2),
                ema=Ema(model, 0.9))  # fmt: skip
    loader = run.make_loader(prepare(args.seed), sampler, workers=args.workers)
    loop.resume()
    for epoch in loop.epochs():
        wrapped.train()
        for batch in loop.batches(loader):
            terms = losses(wrapped(batch["x"]), batch["y"])
            loop.step(terms, ids=[f"sample {i}" for i in batch["index"].tolist()], count=len(batch["x"]))
        loop.close_epoch()
        with loop.ema.applied(model):
            folder.metrics.log(loop.steps_done, judge(model, SAMPLES, world), split="line/val")
            if world.is_main:
                state = {"model": model.state_dict(), "epoch": epoch}
                checkpoint.save(folder.file(WEIGHTS), state, step=loop.steps_done, pointers=())
    folder.mark_done("line")


def load(results: Path) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    checkpoint.load_into(model, checkpoint.load(results / "t" / WEIGHTS)["model"])
    return model


def text_of(model: nn.Module) -> str:
    return json.dumps({name: value.tolist() for name, value in model.state_dict().items()})


def body(args: argparse.Namespace) -> int:
    if args.export:
        folder = args.results / "t" / "exported"
        folder.mkdir(exist_ok=True)
        (folder / "weights.json").unlink(missing_ok=True)
        checkpoint.write_atomic(folder / "weights.json", text_of(load(args.results)))
        return 0
    with run.world_from_environment("cpu") as world:
        if args.judge:
            scores = judge(load(args.results), args.judge, world)
            if world.is_main:
                checkpoint.write_atomic(args.results / "scores.json", json.dumps(scores))
            return 0
        config, name = f"seed: {args.seed}\nbatch: {args.batch}\n", f"{args.seed}-{args.batch}"
        with run.RunFolder.open(args.results, name=args.run, config_hash=name, config_yaml=config, stages=("line",),
                                world=world, command=sys.argv) as folder:  # fmt: skip
            train(args, world, folder)
    return 0


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--run", default="t")
    for name, default in (("seed", 0), ("workers", 0), ("batch", BATCH), ("judge", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--export", action="store_true")
    args = parser.parse_args(argv)
    return run.run_command(lambda: body(args))


if __name__ == "__main__":
    sys.exit(main())
