"""The embedded world: a seeded generator of rooms with echoes, pictures and depth maps in BatVision V2's layout.

It stands in for BatVision so that everything can be trained and measured without a download; a result on it says
nothing about the real data set.

    root = ensure_world(parent, train=64, val=16, test=16)      # written once, used again
    python -m batvision_kd.world FOLDER --train 700 --val 100 --test 200

    spec.py      counts, seed, which building serves which split     paths.py   the ways of the sound
    building.py  buildings, rooms, furniture, the rig's place        head.py    speaker and ears by direction
    rays.py      slab ray casting                                    sound.py   impulse responses, the record
    camera.py    picture, depth, holes                               write.py   the folder on disk
    surfaces.py  bricks, tiles, doors: standard sizes                ridge.py   the standing check: can it be heard?

One engine casts rays for the camera and for the diffuse echoes, so ears and camera meet the same furniture.

Physics that is modelled: mirror images of the six walls to order 4 with absorption by octave band and air loss; mirror
images in faces of furniture, weakened below the size of a Fresnel zone; first-order Lambert scattering over the whole
sphere; a reverberant tail of the energy and decay that volume and absorption give; a beaming speaker 0.18 m from the
head; interaural delay and level of a spherical head; lead-in, noise, and gain. Speed of sound 343 m/s (the loader cuts
with the official 340).

NOT modelled: diffraction around edges (furniture in the way of a mirror path only weakens it); scattering of higher
order and mirror images between furniture and walls; rooms that are not boxes, open doors, curved or slanted things,
anything outdoors; measured ears (pinna notches, so elevation is heard by range alone); moving rigs, room modes below
the lowest band, distortion. Joints and doors are drawn, not built: ears do not hear them. The camera has no shadows,
blur or lens errors, and the depth camera's holes are drawn from simple rules.
"""

from .spec import WorldSpec
from .write import ensure_world, world_folder, write_world

__all__ = ["WorldSpec", "ensure_world", "world_folder", "write_world"]
