"""The embedded world: a seeded generator of driving scenes with spoken commands, and of COCO-like pictures.

It stands in for COCO and Talk2Car where neither is at hand, and writes their official layouts, so that the same loaders
read it. Nothing in it is a photograph: a result on this world says nothing about the real data sets.

    spec.py           sizes, classes, colours, the real figures it imitates
    camera.py         a pinhole over flat ground
    canvas.py         the picture and its light
    street.py         lanes, crossing, time of day, houses        scenery.py     drawing them
    things.py         one object: place, box, drawing             solids.py      low-poly vehicles
    figures.py        people, two-wheelers, cones, signs          scene.py       which things stand where
    draw.py           a frame as a picture
    semantics.py      what a command means, and its one answer    language.py    how it is said (phrases.py)
    talk2car_like.py  rows of Talk2Car                            coco_like.py   rows of COCO
    write.py          the folder on disk
    preview.py, stats.py   looking at it, counting it

What the default spec holds, printed by `python -m talk2car_kd.world --stats DIR` (train split, 6224 commands; in
brackets the real train split for boxes, the real val and test splits for words):

    medians               w 130 px (147), h 122 px (120), w/h 1.21 (1.16), cx 0.454 (0.44), cy 0.562 (0.573),
                          area 1.07 % (1.19); 14.8 % touch the edge (15.7)
    class, %              car 45, adult 25, truck 14, bus 5, trafficcone 4, bicycle 3, motorcycle 3, barrier 2
    colour, %             white 33, black 33, gray 13, orange 7, blue 5, red 5, green 2.5, yellow 2.4
    words, %              left/right 43 (40), turn left/right 10.5 (10), colour 40 (30), relation 60 (56),
                          ordinal 7.5 (4), size 4.5 (2), two sentences 15 (15); mean length 11.0 (11.0)
    side word and box     "left" agrees in 91 % (85), "right" in 80 % (81)
    deciding cue, %       side 24, colour 23, class 22, relation 17, order 10, size 4.5
    another of the class  in view for 78 % (71); knowing the class alone would be right in 54 %
    COCO-like, %          small/medium/large 42/34/24 (41/34/24); mask over box area 0.64

Colour, ordinal and size words are more frequent than in the real commands on purpose: every cue should decide enough
commands to be measured on its own.
"""

from .spec import WorldSpec
from .write import write_world

__all__ = ["WorldSpec", "write_world"]
