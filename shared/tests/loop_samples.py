"""What the tests of the training loop train on: 14 samples in batches of 2, drawn anew in every epoch."""

import itertools

import torch

from shared import run

SAMPLES, BATCH, BATCHES = 14, 2, 7


class Sampler:
    """Batches of (epoch, index) keys; `sizes` of them in turn."""

    def __init__(self, sizes=(BATCH,) * BATCHES):
        self.sizes, self.epoch, self.start = sizes, 0, 0

    def set_position(self, epoch, batch):
        self.epoch, self.start = epoch, batch

    def __iter__(self):
        ends = list(itertools.accumulate(self.sizes))
        for number in range(self.start, len(self.sizes)):
            yield [(self.epoch, i) for i in range(ends[number] - self.sizes[number], ends[number])]

    def __len__(self):
        return len(self.sizes)


class Samples(torch.utils.data.Dataset):
    """x (4,) and y () drawn from (seed, epoch, index)."""

    def __getitem__(self, key):
        rng = run.sample_rng(0, *key)
        x = torch.tensor(rng.normal(size=4), dtype=torch.float32)
        return {"x": x, "y": x.sum(), "index": key[1]}

    def __len__(self):
        return SAMPLES
