"""Images: any mode becomes RGB, damage is seen before decoding, normalising is exact, memory is never pulled away."""

import cv2
import numpy as np
import torch

from talk2car_kd.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BatchMemory,
    Normaliser,
    damage_of,
    header_wh,
    read_rgb,
    resize,
)


def test_any_mode_is_read_as_rgb(tmp_path):
    """Grey, 16-bit grey, RGBA and palette files; RGB order."""
    red = np.zeros((4, 6, 3), np.uint8)
    red[...] = (0, 0, 255)  # BGR
    files = {
        "rgb.png": red,
        "rgba.png": np.dstack([red, np.full((4, 6), 128, np.uint8)]),
        "grey.png": np.full((4, 6), 77, np.uint8),
        "deep.png": np.full((4, 6), 77 * 257, np.uint16),
    }
    for name, pixels in files.items():
        cv2.imwrite(str(tmp_path / name), pixels)
        expected = (255, 0, 0) if name.startswith("rgb") else (77, 77, 77)
        assert read_rgb(tmp_path / name).shape == (4, 6, 3)
        assert (read_rgb(tmp_path / name) == expected).all(), name
        assert header_wh(tmp_path / name) == (6, 4)


def test_a_thumbnails_end_marker_is_not_the_images():
    jpeg = b"\xff\xd8 exif \xff\xda thumb \xff\xd9 \xff\xda pixels "
    assert "cut short" in damage_of(jpeg)
    assert damage_of(jpeg + b"\xff\xd9") is None
    assert "LFS" in damage_of(b"version https://git-lfs.github.com/spec/v1\n")


def test_normaliser_is_exact():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    out = np.empty((3, 16, 16), np.float32)
    Normaliser(IMAGENET_MEAN, IMAGENET_STD)(image, out)
    expected = (image.astype(np.float64) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    assert np.array_equal(out, expected.transpose(2, 0, 1).astype(np.float32))


def test_batch_memory_is_used_again_only_when_free():
    memory = BatchMemory()
    first = memory.take(4, 3, 2, 2)
    held = torch.from_numpy(first[1])
    held.fill_(7.0)
    del first
    other = memory.take(4, 3, 2, 2)
    other.fill(0)
    assert (held == 7).all()
    address = other.ctypes.data
    del other, held
    assert memory.take(2, 3, 2, 2).ctypes.data == address
    assert memory.take(2, 3, 5, 5).shape == (2, 3, 5, 5)


def test_resize_does_not_alias():
    """Every fourth column bright: shrunk fourfold it is a quarter as bright everywhere, not black."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 200
    small = resize(stripes, 16, 16)
    assert small.shape == (16, 16, 3)
    assert (abs(small.astype(int) - 50) <= 1).all()
