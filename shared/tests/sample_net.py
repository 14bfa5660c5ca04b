"""A small model for the tests of optimisation: parameters of every kind, one of them in no module, and statistics."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.Linear(3, 4), "norm": nn.BatchNorm1d(4)})
        self.head = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.head(self.backbone["norm"](self.backbone["stem"](x))) * self.scale


def weights_of(module):
    """A copy of its parameters and statistics."""
    return {name: value.clone() for name, value in module.state_dict().items()}
