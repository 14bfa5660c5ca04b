"""The depth inside holes: the drawn scene, which the camera agrees with wherever it measured."""

import numpy as np
import pytest

from batvision_kd.data.dataset import EchoDepthDataset
from batvision_kd.depth import load_depth_m
from batvision_kd.holes import HolesOnly, drawn_depth
from batvision_kd.spectrogram import SpectrogramSettings
from batvision_kd.world import write_world
from shared.errors import DataError


@pytest.fixture(scope="module")
def test_split(tmp_path_factory):
    root = write_world(tmp_path_factory.mktemp("world") / "w", train=1, val=1, test=3, size_hw=(36, 64), workers=0)
    return EchoDepthDataset(root, "test", settings=SpectrogramSettings(size=(32, 32)), size=(36, 64))


def test_the_drawn_depth_is_what_the_camera_measured_with_noise(test_split):
    for record in test_split.records:
        measured, valid = load_depth_m(record.depth)
        drawn = drawn_depth(test_split.root, record.id)
        assert drawn.shape == measured.shape and (drawn > 0).all()
        assert np.median(np.abs(np.log(drawn[valid] / measured[valid]))) < 0.02


def test_only_the_holes_count(test_split):
    inside = HolesOnly(test_split)
    assert inside.names_of([(3, 0), 1]) == ", ".join(record.id for record in test_split.records[:2])
    for index in range(len(inside)):
        item, holes = test_split[index], inside[(0, index)]
        assert (holes["valid"] == ~item["valid"]).all() and holes["valid"].any()
        assert (holes["depth"][holes["valid"]] > 0).all() and (holes["depth"][~holes["valid"]] == 0).all()
        assert (holes["audio"] == item["audio"]).all()


def test_real_data_is_refused(test_split, tmp_path):
    other = test_split.of_records(test_split.records)
    other.root = tmp_path
    with pytest.raises(DataError, match="no embedded world"):
        HolesOnly(other)
