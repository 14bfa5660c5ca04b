"""The two epochs: a model learns from measured depth, and a student learns from a teacher as well.

Position, saving, stopping and logging belong to `shared.loop.Loop`; what stands here is the method.
"""

# B batch, H x W pixels

import torch
from torch import nn

from shared.loop import Loop

from .batches import to_device
from .objective import Distillation, Task, Taught


def depth_epoch(model: nn.Module, loader, source: str, task: Task, loop: Loop, *, bf16: bool = False) -> None:
    """RGB or echo in, depth out, judged where depth was measured. source: the item that the model takes."""
    model.train()
    device = loop.world.device
    for batch in loop.batches(loader):
        batch = to_device(batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            depth = model(batch[source])
        loop.step(task(depth.float(), batch), ids=batch["id"], count=len(batch["id"]))


def distillation_epoch(model: Taught, loader, method: Distillation, loop: Loop, *, bf16: bool = False) -> None:
    """The student hears, the teacher sees the same moment; measured depth, the teacher's depth and its features pull.

    The frozen teacher gives its lesson without gradients. The weights of its terms may change from step to step.
    """
    model.train()
    device = loop.world.device
    for batch in loop.batches(loader):
        batch = to_device(batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            lesson = method.teacher.lesson(batch)
            depth, feature_terms = model(batch["audio"], lesson.features)
        task = method.task(depth.float(), batch)
        taught = {**method.response(depth.float(), lesson, batch), **feature_terms}
        loop.weights.update(method.weights(loop, task, taught))
        loop.step({**task, **taught}, ids=batch["id"], count=len(batch["id"]))
