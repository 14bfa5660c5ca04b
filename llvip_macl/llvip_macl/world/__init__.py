"""The embedded world: a seeded generator of paired visible/infrared street scenes in the layouts of LLVIP and KAIST.

It stands in for the real data sets so that everything can be trained and measured without a download; a result on it
says nothing about them.

    root = ensure_world(parent, layout="llvip", pairs=(200, 60))      # written once, used again
    python -m llvip_macl.world FOLDER --layout kaist --train 200 --test 60 --sheet look.png

    spec.py      counts, seed, names, which scene serves which split     canvas.py   painting, pixels of a shape
    camera.py    pinhole over flat ground                                render.py   one pair: pictures and boxes
    street.py    one scene: buildings, lamps, weather                    sensors.py  the two cameras
    backdrop.py  the empty street, ray by ray                            layouts.py  paths and label files
    parts.py     flat shapes with a colour and a temperature             write.py    the folder on disk
    figure.py    persons, cyclists, dogs                                 faults.py   damage on purpose
    things.py    cars, trees, lamps, and what is mistaken for a person   sheet.py    a picture for the eye
    scenes.py    what stands where in a shot

One geometry, two cameras: every surface has a reflectance and a temperature, and both pictures see the same
silhouettes. What makes the task need both: by night a third of the persons wear dark clothes outside the lamps' light,
by day two fifths are as warm as what is behind them; statues, posters and mannequins look like persons in the visible
picture alone, bodies mirrored in metal, warm pipes and vents in the infrared picture alone. KAIST's streets are seen
from a car's roof with poorer cameras, LLVIP's from a pole with better ones, so there is something to transfer.

Pixels. Boxes are tight around the pixels a silhouette touches before anything hides it, clipped to the picture. KAIST's
rules of the miss rate hold for 512 lines: multiply boxes by `annotation_scale(root)` = 512 / H before applying them.

NOT modelled: parallax (infrared is shifted as a whole), flat figures have no shading, moving blur, rain, fog, cold or
hot emissivities, sunshine on one side of the street, the automatic gain of real infrared cameras, cast shadows other
than a patch at the foot, glass that infrared does not pass. LLVIP's layout has no crowd or cyclist boxes, and its one
box a person is the visible picture's when the pictures are misaligned.
"""

from .spec import WorldSpec
from .write import annotation_scale, ensure_world, read_truth, world_folder, write_world

__all__ = ["WorldSpec", "annotation_scale", "ensure_world", "read_truth", "world_folder", "write_world"]
