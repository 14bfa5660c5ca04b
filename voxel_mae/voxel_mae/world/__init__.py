"""The embedded world: a seeded generator of construction-site LiDAR scans in OpenPCDet's custom layout.

It stands in for a construction data set so that everything can be trained and measured without a download; a result on
it says nothing about real sites. How like real scans it is: `python -m voxel_mae.world --statistics`.

    root = ensure_world(parent, WorldSpec(...))                 # written once, used again
    python -m voxel_mae.world FOLDER --train-sequences 40

    spec.py      sizes, counts, seed          sensor.py      the spinning LiDAR
    bodies.py    bodies and rays              site.py        which things stand where, how they and the sensor move
    terrain.py   uneven ground and heaps      frames.py      the frames of a sequence, and what gets a label
    machines.py  the four machines            write.py       the folder on disk
    clutter.py   everything without a label   statistics.py  the table beside real scans

Modelled: first hits of every beam; uneven ground, heaps that hide what is behind them; machines whose silhouettes
differ, at any heading, some of them moving; ego-motion over a sequence; range noise, lost rays, faint grazing echoes.

NOT modelled: distortion by the motion within one turn, a tilting sensor, rain and dust, several echoes of one ray,
mirror-like paint, machines that change their pose within a sequence, operators and their rules.
"""

from .spec import CLASSES, WorldSpec
from .write import ensure_world, world_folder, write_world

__all__ = ["CLASSES", "WorldSpec", "ensure_world", "world_folder", "write_world"]
