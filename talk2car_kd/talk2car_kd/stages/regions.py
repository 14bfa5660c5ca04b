"""The COCO regions of a split, with the captions that may name them."""

from dataclasses import dataclass

from ..coco import Region, find_coco, load_image_captions, load_regions
from .context import Context


@dataclass(frozen=True)
class RegionSplit:
    regions: list[Region]
    captions: dict[int, list[str]] | None  # image id -> captions


def load_split(ctx: Context, split: str) -> RegionSplit:
    """Regions of `train` or `val`; captions only when the configuration uses them."""
    stage1, data = ctx.config.stage1, ctx.config.data
    layout = find_coco(ctx.coco_root)
    regions = load_regions(
        layout,
        split,
        min_side_px=stage1.min_side_px,
        small_area_px=stage1.small_area_px,
        large_area_px=stage1.large_area_px,
        val_fraction=data.coco_val_fraction,
        seed=ctx.config.training.seed,
    )
    captions = None if stage1.captions == "template" else load_image_captions(layout, split)
    return RegionSplit(regions, captions)
