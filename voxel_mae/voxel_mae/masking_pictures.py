"""A picture of every masking: what the student sees from above, and the share that is kept at each distance.

    draw_maskings(batch, grid, every_kind(), Path("maskings.png"), seed=0, note="embedded world")

One panel a masking: kept voxels in colour over masked ones in grey, rings at the band limits, realised shares in the
title. Only the first sample of the batch is drawn. x points up and y to the left, as in pictures.py.
"""

# V voxels

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .grid import Grid
from .masking import KINDS, REPORT_BANDS_M, KeepShares, Masking, mask_batch, mask_rng, seen_from
from .voxelize import VoxelBatch, batch_voxels, voxelize

COLUMNS = 3
MASKED, KEPT, RING = "#c9ccd1", "#0b6e99", "#b4432f"
PANEL_INCHES, PIXELS_PER_INCH = 3.6, 130


def every_kind() -> dict[str, Masking]:
    """Each masking with its default values, by name; radial in R-MAE's 1-degree sectors too."""
    return {name: kind() for name, kind in KINDS.items()} | {"radial, 360 sectors": KINDS["radial"](sectors=360)}


def draw_maskings(
    batch: VoxelBatch, grid: Grid, maskings: Mapping[str, Masking], path: Path, *, seed: int = 0, note: str = ""
) -> dict[str, KeepShares]:
    """Draw the maskings of the batch's first sample into a PNG; the realised shares of each.

    note: stands on the picture (where the data come from).
    """
    first = batch.select((batch.coords[:, 0] == 0).cpu())
    first = VoxelBatch(first.features.cpu(), first.coords.cpu(), 1, batch.sensor_xy[:1].cpu())
    rows = -(-len(maskings) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * PANEL_INCHES, rows * (PANEL_INCHES + 0.4)), layout="constrained")
    figure.suptitle(" - ".join(part for part in ("What the student sees, from above", note) if part), fontsize=11)
    figure.supxlabel("metres from the sensor; forward is up", fontsize=8)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    shares = {}
    for panel, (name, masking) in zip(panels, maskings.items(), strict=False):
        keep, shares[name] = mask_batch(first, grid, masking, [mask_rng(seed, 0, 0)])
        _panel(panel, name, first, grid, keep.numpy(), shares[name])
    for panel in panels[len(maskings) :]:
        panel.axis("off")
    figure.savefig(path, dpi=PIXELS_PER_INCH)
    return shares


def _panel(panel: Axes, name: str, batch: VoxelBatch, grid: Grid, keep: np.ndarray, shares: KeepShares) -> None:
    polar = seen_from(batch.coords, grid, batch.sensor_xy[0])
    right, up = -polar.dy, polar.dx
    panel.scatter(right[~keep], up[~keep], s=0.6, c=MASKED, linewidths=0)
    panel.scatter(right[keep], up[keep], s=0.8, c=KEPT, linewidths=0)
    angle = np.linspace(0, 2 * np.pi, 181)
    for limit in REPORT_BANDS_M:
        panel.plot(limit * np.cos(angle), limit * np.sin(angle), color=RING, linewidth=0.6)
    reach = max(np.abs(right).max(initial=1.0), np.abs(up).max(initial=1.0))
    panel.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    panel.tick_params(labelsize=6)
    panel.set_title(_title(name, shares), fontsize=8)


def _title(name: str, shares: KeepShares) -> str:
    places = [*(f"to {limit:g} m" for limit in shares.limits_m), "beyond"]
    kept = [f"{k / n:.0%} {place}" for place, k, n in zip(places, shares.kept, shares.total, strict=True) if n]
    return f"{name}: {shares.overall:.0%} kept\n{', '.join(kept)}"


def draw_cloud(points: np.ndarray, grid: Grid, path: Path, *, seed: int = 0, note: str = "") -> dict[str, KeepShares]:
    """Every masking of a cloud (N, >= 3) float32 with the sensor at the origin."""
    return draw_maskings(batch_voxels([voxelize(points, grid)]), grid, every_kind(), path, seed=seed, note=note)
