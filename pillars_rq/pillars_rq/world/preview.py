"""A sheet of the world's frames: the picture with its 2D boxes, and beside it the points and boxes from above."""

from PIL import Image, ImageDraw

from pillars_rq.kitti.calibration import boxes_to_lidar
from pillars_rq.kitti.clouds import in_view
from pillars_rq.kitti.labels import DONT_CARE
from pillars_rq.pictures import CLASS_COLOURS, TRUTH, BevView, Layer, draw_bev

from .annotate import IMAGE_HW, make_calibration
from .frame import WorldFrame, make_frame
from .spec import WorldSpec

GAP_PX = 6


def sheet(spec: WorldSpec, frames: int = 6, columns: int = 2) -> Image.Image:
    """The first val frames of a world."""
    tiles = [tile(make_frame(spec, "val", number)) for number in range(frames)]
    width, height = tiles[0].size
    rows = -(-frames // columns)
    whole = Image.new("RGB", (columns * (width + GAP_PX) - GAP_PX, rows * (height + GAP_PX) - GAP_PX), (255, 255, 255))
    for number, one in enumerate(tiles):
        whole.paste(one, ((number % columns) * (width + GAP_PX), (number // columns) * (height + GAP_PX)))
    return whole


def tile(frame: WorldFrame) -> Image.Image:
    """One frame: 621 x 187 px of picture above, the view from above below."""
    calib = make_calibration()
    picture = Image.fromarray(frame.picture)
    drawing = ImageDraw.Draw(picture)
    for name, box in zip(frame.labels.name, frame.labels.bbox, strict=True):
        colour = (150, 150, 150) if name == DONT_CARE else CLASS_COLOURS.get(str(name), TRUTH)
        drawing.rectangle([float(v) for v in box], outline=colour, width=3)
    picture = picture.resize((IMAGE_HW[1] // 2, IMAGE_HW[0] // 2))
    found = frame.labels.without_dont_care()
    boxes = boxes_to_lidar(found.location, found.dimensions, found.rotation_y, calib)
    colours = [CLASS_COLOURS.get(str(name), TRUTH) for name in found.name]
    view = BevView((0, -23, 56, 23), 621 / 56)
    above = draw_bev(
        frame.points[in_view(frame.points, calib, IMAGE_HW)], view, [Layer(boxes, colours)], frame.scene.kind
    )
    whole = Image.new("RGB", (above.width, picture.height + above.height), (255, 255, 255))
    whole.paste(picture, (0, 0))
    whole.paste(above, (0, picture.height))
    return whole
