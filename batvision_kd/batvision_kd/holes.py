"""What stands where the depth camera measured nothing: known in the embedded world, because it is drawn there.

    inside = HolesOnly(test)      # the same images; depth and mask are those of the holes
    score(predictor(student, "audio"), inside, max_depth_m=30.0)

The holes are the only pixels where a teacher knows more than the ground truth, so what distillation can give shows
there first. Real data has no depth in its holes, and nothing like this can be measured on it.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from shared.embedded_world import is_embedded, spec_of
from shared.errors import DataError

from .data.dataset import EchoDepthDataset
from .depth import resize_masked
from .world.building import make_building, make_room, place_rig
from .world.camera import camera_rays
from .world.rays import cast
from .world.spec import Shot, WorldSpec


class HolesOnly(Dataset):
    """Items of an embedded split with the drawn depth as `depth` and the holes as `valid`.

    Raises DataError for a root that is not an embedded world.
    """

    def __init__(self, data: EchoDepthDataset):
        if not is_embedded(data.root):
            raise DataError(f"{data.root} is no embedded world: the depth inside its holes is not known")
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def names_of(self, keys: Sequence) -> str:
        return self.data.names_of(keys)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index = key[1] if isinstance(key, tuple) else key
        item = self.data[key]
        dense = drawn_depth(self.data.root, self.data.records[index].id)
        far = np.minimum(dense, self.data.max_depth_m).astype(np.float32)
        depth = torch.from_numpy(resize_masked(far, np.ones_like(far, dtype=bool), self.data.size)[0])[None]
        holes = ~item["valid"]
        return {**item, "depth": torch.where(holes, depth, 0.0), "valid": holes}


def drawn_depth(root: Path, sample_id: str) -> np.ndarray:
    """(H,W) float32 metres of an embedded sample as the scene has them: without holes and camera noise."""
    spec, shots = _shots(root)
    shot = shots[sample_id]
    room = make_room(make_building(spec.seed, shot.building), spec.seed, shot.building, shot.room)
    rig = place_rig(room, np.random.default_rng((spec.seed, 3, shot.building, shot.room, shot.view)))
    return cast(room, rig.position_m, camera_rays(rig, spec.size_hw)).reach.reshape(spec.size_hw).astype(np.float32)


@lru_cache(maxsize=4)
def _shots(root: Path) -> tuple[WorldSpec, dict[str, Shot]]:
    """The world's spec and its shots by sample id."""
    spec = WorldSpec(**spec_of(root))
    return spec, {f"{shot.location}/{shot.index}": shot for shot in spec.shots()}
