"""The embedded world: a seeded generator of LiDAR scenes that writes KITTI's layout, for when KITTI is not at hand.

It stands in for KITTI so that everything can be trained and measured without a download; a result on it says nothing
about the real data set. How like it is: `python -m pillars_rq.world.realism`.

    spec.py      sizes, counts, seed          solids.py    bodies and rays
    sensor.py    the spinning LiDAR           things.py    cars, people, clutter
    scene.py     which things stand where     annotate.py  labels, difficulty fields, calibration
    picture.py   image_2                      frame.py     one frame
    write.py     the folder on disk           realism.py   the table beside real frames
"""

from .spec import WorldSpec
from .write import write_world

__all__ = ["WorldSpec", "write_world"]
