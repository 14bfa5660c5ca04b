"""A small data set without files and models without weights, for tests of judging."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from batvision_kd.spectrogram import SpectrogramSettings

SIDE = 16
SPECTROGRAM = SpectrogramSettings(size=(SIDE, SIDE))


class Echoes(Dataset):
    """Image i lies i+1 decimetres beyond 1 m on its left half and twice as far on its right; each ear's level says so.

    holes: share of invalid pixels (depth 0). Two images a room, three rooms a location.
    """

    def __init__(self, images: int = 12, holes: float = 0.2, settings: SpectrogramSettings = SPECTROGRAM):
        self.images, self.holes, self.settings = images, holes, settings

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, key) -> dict:
        index = key[1] if isinstance(key, tuple) else key
        near = 1 + 0.1 * (index + 1)
        depth = torch.full((1, SIDE, SIDE), near)
        depth[..., SIDE // 2 :] *= 2
        valid = torch.rand((1, SIDE, SIDE), generator=torch.Generator().manual_seed(index)) >= self.holes
        audio = torch.stack([torch.full((SIDE, SIDE), near / 10), torch.full((SIDE, SIDE), near / 5)])
        more = torch.zeros(self.settings.channel_count - 2, SIDE, SIDE)
        return {"audio": torch.cat([audio, more]), "rgb": audio.mean(0, keepdim=True).expand(3, -1, -1),
                "depth": depth * valid, "valid": valid, "id": f"image_{index}", "room": f"room_{index // 2}",
                "location": f"place_{index // 6}"}  # fmt: skip


class Hears(nn.Module):
    """Reads the depth of each half off its ear: perfect on `Echoes`."""

    def forward(self, audio: Tensor, return_features: bool = False) -> Tensor:
        left, right = audio[:, :1].mean((2, 3), keepdim=True) * 10, audio[:, 1:2].mean((2, 3), keepdim=True) * 10
        half = torch.ones(1, 1, SIDE, SIDE // 2)
        return torch.cat([left * half, right * half], dim=-1).clamp(min=0.1)


class Deaf(nn.Module):
    """Predicts 2 m everywhere."""

    def forward(self, audio: Tensor, return_features: bool = False) -> Tensor:
        return torch.full((len(audio), 1, SIDE, SIDE), 2.0)
