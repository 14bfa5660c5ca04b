"""The training loop in two processes: they move the weights as one."""

import contextlib
import importlib
import socket

import pytest
import torch
from loop_samples import Sampler, Samples
from torch import nn

from shared import checkpoint, run
from shared.loop import Loop, LoopSettings
from shared.optim import lr_groups, warmup_cosine
from shared.testing.injections import Child, metrics_of


@pytest.mark.fault(22)
def test_two_processes_move_the_weights_as_one(tmp_path):
    """Each takes every other sample of batches that do not divide: losses and gradients are means over all samples."""
    importlib.import_module("torch._dynamo")  # DistributedDataParallel wants it: here once, not slowly in each child
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = str(server.getsockname()[1])
    several = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    children = [Child([str(tmp_path), "one"], linear_training, tmp_path / "one.log", None, {})]
    for rank in ("0", "1"):
        log, own = tmp_path / f"two-{rank}.log", {"RANK": rank, "LOCAL_RANK": rank}
        children.append(Child([str(tmp_path), "two"], linear_training, log, None, {**several, **own}))
    for child in children:
        ended = child.wait()
        assert ended.code == 0, ended.output
    (_, one), (_, two) = (checkpoint.load_latest(tmp_path / name / "a") for name in ("one", "two"))
    assert one["position"] == two["position"]
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value)
    ours, theirs = (metrics_of(tmp_path / name) for name in ("one", "two"))
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a == {key: pytest.approx(value, rel=1e-4) if key != "split" else value for key, value in b.items()}


class Share(Sampler):
    """This rank's part of every batch."""

    def __init__(self, sizes, world):
        super().__init__(sizes)
        self.world = world

    def __iter__(self):
        return (batch[self.world.rank :: self.world.size] for batch in super().__iter__())


def linear_training(argv) -> int:
    root, name = argv
    with run.world_from_environment("cpu") as world:
        run.seed_everything(3)
        folder = run.RunFolder.open(root, name=name, config_hash="01", config_yaml="seed: 3\n", stages=("a",),
                                    world=world, command="test")  # fmt: skip
        model, sampler = nn.Linear(4, 1), Share((5, 3, 4, 2), world)
        wrapped = nn.parallel.DistributedDataParallel(model) if world.size > 1 else model
        loop = Loop(stage="a", run=folder, world=world, model=wrapped,
                    optimizer=torch.optim.AdamW(lr_groups(model, 0.05, {})), schedule=warmup_cosine,
                    weights={"square": 1.0}, sampler=sampler, settings=LoopSettings(2, 2, 1.0, 1, 2, 2))  # fmt: skip
        loader = run.make_loader(Samples(), sampler, workers=0)
        for _ in loop.epochs():
            for batch in loop.batches(loader):
                square = ((wrapped(batch["x"]).squeeze(1) - batch["y"]) ** 2).mean()
                loop.step({"square": square}, ids=batch["index"].tolist(), count=len(batch["x"]))
            loop.close_epoch()
        folder.close()
    return 0
