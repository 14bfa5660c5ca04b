"""Frame names of a prepared index that came from elsewhere: results and pictures are files of that name."""

import json

import pytest
from base_samples import write_root

from pillars_rq.kitti.infos import read_infos
from pillars_rq.kitti.layout import find_kitti
from shared.errors import DataError


@pytest.mark.fault(21)
@pytest.mark.parametrize("name", ["../../x", "/abs", "<b>", "", "0000001"])
def test_a_frame_cannot_be_named_out_of_the_folder(tmp_path, name):
    root = find_kitti(write_root(tmp_path / "kitti", train=1, val=1))
    (frame,) = read_infos(root, "val")
    index = json.loads(root.infos("val").read_text())
    index["frames"] = {name: index["frames"][frame.frame_id]}
    root.infos("val").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"kitti_infos_val\.json is damaged .*not a frame id of six digits.*again"):
        read_infos(root, "val")
