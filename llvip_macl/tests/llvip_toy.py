"""A toy detector, its data and its metric, registered in mmdet by importing this file.

It draws random numbers, has batch statistics and a queue that moves after backward, so that whatever a checkpoint
forgets shows.
"""

import torch
from mmdet.registry import DATASETS, METRICS, MODELS
from mmdet.structures import DetDataSample
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel


@DATASETS.register_module()
class LlvipToyData(torch.utils.data.Dataset):
    metainfo = {"classes": ("person",)}  # noqa: RUF012

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        generator = torch.Generator().manual_seed(1000 * getattr(key, "epoch", 0) + int(key))
        sample = DetDataSample(metainfo={"img_path": f"pair_{int(key)}.png"})
        return {"inputs": torch.randn(4, generator=generator), "data_samples": sample}


@MODELS.register_module()
class LlvipToyModel(BaseModel):
    def __init__(self, width=4, **rest):
        super().__init__(**rest)
        self.backbone = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.BatchNorm1d(width))
        self.old_backbone = torch.nn.Linear(width, width)
        self.head = torch.nn.Linear(width, 1)
        self.register_buffer("queue", torch.zeros(3))
        self.pending = None

    def forward(self, inputs, data_samples=None, mode="tensor"):
        x = torch.stack(list(inputs))
        out = self.head(torch.dropout(self.old_backbone(self.backbone(x)), 0.3, self.training)) + self.queue.mean()
        if mode == "predict":
            return [DetDataSample(metainfo={"score": float(value)}) for value in out]
        self.pending = out.detach().mean()
        return {"loss_fit": (out - x.sum(1, keepdim=True)).square().mean(), "acc": out.detach().mean()}

    def after_backward(self):
        assert self.head.weight.grad is not None, "backward comes first"
        self.queue.copy_(torch.cat([self.queue[1:], self.pending[None]]))


@METRICS.register_module()
class LlvipToyMetric(BaseMetric):
    default_prefix = "toy"

    def process(self, data_batch, data_samples):
        self.results.extend(sample["score"] for sample in data_samples)

    def compute_metrics(self, results):
        return {"error": abs(sum(results) / len(results)), "count": float(len(results))}
