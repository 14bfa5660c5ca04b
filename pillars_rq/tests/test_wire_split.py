"""The detector in two halves over TCP, and the commands: what arrives is what the same steps give in one process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from rq_samples import SMALL_GRID, codec_of, codec_of_features, trained
from test_bitstream_fuzz import mutated
from test_wire import LONGEST_S, serving

from pillars_rq.anchors import KITTI_CLASSES, make_anchors
from pillars_rq.bitstream.codec import codec_state
from pillars_rq.bitstream.errors import StreamError
from pillars_rq.decode import Decoding, detect
from pillars_rq.network import PointPillars, Widths, scatter
from pillars_rq.rq.codebooks import OperatingPointError
from pillars_rq.voxelize import batch_pillars, voxelize
from pillars_rq.weights import save_base
from pillars_rq.wire.commands import clouds_at, edge_main, load_ends
from pillars_rq.wire.edge import EdgeClient, EdgeSettings
from pillars_rq.wire.split import EdgeEncoder, Rate, Receiver, detections_of, features_of_cloud
from shared import checkpoint
from shared.errors import CheckpointError, ConfigError, DataError

PACKAGE = Path(__file__).parents[1]
EVERYTHING = Decoding(min_score=0.0, limit_m=None, max_boxes=20)


def cloud(seed, count=400):
    points = np.random.default_rng(seed).random((count, 4)).astype(np.float32)
    return (points * [10.2, 10.2, 3.9, 1] + [0.02, -5.1, -2.95, 0]).astype(np.float32)


def features_and_cells(model, points):
    pillars = voxelize(points, SMALL_GRID, SMALL_GRID.max_voxels_eval)
    with torch.no_grad():
        return model.headnet(batch_pillars([pillars])), pillars.coords


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PointPillars(SMALL_GRID, KITTI_CLASSES, Widths(8, (8, 8, 8), (1, 1, 1), 8)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def codec(model):
    features = torch.cat([features_and_cells(model, cloud(seed))[0] for seed in range(3)])
    return codec_of_features(features, SMALL_GRID, 3, (4, 16))


def in_one_process(model, codec, points, n, k):
    features, coords = features_and_cells(model, points)
    quantized = codec.quantizer.decode(codec.quantizer.encode(features, n, k))
    with torch.no_grad():
        maps = model.tailnet(scatter(quantized, torch.nn.functional.pad(coords, (1, 0)), 1, SMALL_GRID))
    return detect(maps, make_anchors(SMALL_GRID, KITTI_CLASSES), EVERYTHING)[0]


def test_the_wire_changes_no_detection(model, codec):
    encoder = EdgeEncoder(features_of_cloud(model), codec, Rate(2, 16))
    clouds = [cloud(10), cloud(11), np.zeros((0, 4), np.float32)]
    receiver = Receiver(detections_of(model, EVERYTHING), codec)
    with serving(receiver) as server, EdgeClient(server.endpoint) as client:
        for points in clouds:
            client.submit(encoder(points).stream)
        replies = {reply.number: reply for reply in client.drain()}
    for number, points in enumerate(clouds):
        expected, found = in_one_process(model, codec, points, 2, 16), replies[number].answer.detections
        assert len(found) == len(expected) > 0
        assert np.array_equal(found.boxes, expected.boxes) and np.array_equal(found.scores, expected.scores)
        assert np.array_equal(found.labels, expected.labels)


def test_a_rate_target_is_kept_frame_by_frame(model, codec):
    head = features_of_cloud(model)
    sizes = [len(EdgeEncoder(head, codec, Rate(1, 4))(cloud(seed)).stream) for seed in (10, 11)]
    encoder = EdgeEncoder(head, codec, Rate(target_kb=(max(sizes) + 150) / 1000))
    for seed in (10, 11):
        encoded = encoder(cloud(seed))
        assert len(encoded.stream) <= max(sizes) + 150 and (encoded.n, encoded.k) != (1, 4)


def test_rates_that_contradict_themselves(model, codec):
    for arguments in ({}, {"n": 1}, {"n": 1, "k": 4, "target_kb": 3}, {"k": 4, "target_kb": 3}):
        with pytest.raises(ConfigError, match="a rate is both n and k, or target_kb alone"):
            Rate(**arguments)
    with pytest.raises(OperatingPointError, match="1-3 codebook"):
        EdgeEncoder(features_of_cloud(model), codec, Rate(4, 16))


@pytest.mark.fault(18)
def test_mutated_streams_leave_the_server_alive(model, codec, request):
    """Fault 18 over the wire: each gets an answer, and a good frame after them too. All 10,000 with `-m slow`."""
    mutations = 10_000 if "slow" in request.config.getoption("-m") else 300
    receiver = Receiver(detections_of(model, EVERYTHING), codec)
    stream = EdgeEncoder(features_of_cloud(model), codec, Rate(3, 16))(cloud(10)).stream
    rng = np.random.default_rng(0)
    with (
        serving(receiver, queue_frames=64, per_edge=64, max_frame_bytes=100_000) as server,
        EdgeClient(server.endpoint, EdgeSettings(window=16)) as client,
    ):
        for _ in range(mutations):
            client.submit(mutated(stream, rng))
        client.drain()
        client.submit(stream)
        (last,) = client.drain()
        counts = client.counts
    assert last.answer is not None and counts["dropped"] == 0 and counts["refused"] > 0.9 * mutations
    assert not server.counts["failed"] and counts["refused"] + counts["answered"] == mutations + 1


@pytest.mark.fault(18)
def test_a_receiver_refuses_another_codec_s_stream(model, codec):
    stream = EdgeEncoder(features_of_cloud(model), codec_of(trained()), Rate(1, 8))(cloud(1)).stream
    with pytest.raises(StreamError):
        Receiver(detections_of(model), codec)(stream)


# ---------------------------------------------------------------- commands


@pytest.fixture
def files(tmp_path, model, codec):
    save_base(tmp_path / "base.pth", model, step=1)
    checkpoint.save(tmp_path / "final.pth", {"codec": codec_state(codec)}, step=1, pointers=())
    (tmp_path / "clouds").mkdir()
    for number in range(3):
        cloud(number).tofile(tmp_path / "clouds" / f"{number:06d}.bin")
    return tmp_path


def both(files):
    return ["--pretrained", str(files / "base.pth"), "--rq_ckpt", str(files / "final.pth")]


@contextlib.contextmanager
def server_process(files, token, *words):
    """`python server.py` on a free port: its process and what it says first. Whatever hangs ends by kill, and fails."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE), "PILLARS_RQ_TOKEN": token, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PACKAGE / "server.py"), *words, *both(files), "--listen", "tcp://127.0.0.1:*"]
    with (files / "err.txt").open("w") as err:  # a pipe that nobody reads could fill up
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True, env=environment)
    ends = threading.Timer(5 * LONGEST_S, process.kill)
    ends.start()
    try:
        yield process, process.stdout.readline()
    finally:
        ends.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.readme(
    "python server.py --pretrained pretrained/epoch_160.pth --rq_ckpt progressive_rq_logs/checkpoints/final.pth",
    "python edge.py --pretrained pretrained/epoch_160.pth --rq_ckpt progressive_rq_logs/checkpoints/final.pth"
    " --points datasets/kitti/testing/velodyne --n 2 --k 256",
)
def test_the_two_commands(files, capsys, monkeypatch, readme):
    """A server process, an edge, SIGTERM: exit 143, and the counts of both ends agree."""
    served, sent = readme
    with server_process(files, "x", *served.arguments) as (server, line):
        assert line.startswith("listening on tcp://127.0.0.1:"), (files / "err.txt").read_text()
        assert "1-3 codebook(s) with 4, 16" in line
        address = line.split()[2].rstrip(";")
        given = [*both(files), "--server", address, "--points", str(files / "clouds"), "--k", "16"]
        arguments = [*sent.arguments, *given]
        assert edge_main(arguments) == 1  # without the token every frame is refused
        monkeypatch.setenv("PILLARS_RQ_TOKEN", "x")
        assert edge_main([*arguments, "--repeat", "2", "--rate-hz", "50", "--simulate-bandwidth", "10"]) == 0
        server.send_signal(signal.SIGTERM)
        out, _ = server.communicate(timeout=LONGEST_S)
    assert server.returncode == 143 and "Traceback" not in (files / "err.txt").read_text()
    assert json.loads(out)["served"] == {"refused": 3, "answered": 6}
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["error"] for line in lines[:3]] == ["the token is not this server's: use the same."] * 3
    assert lines[-1] == {"sent": {"answered": 6}}
    assert sorted(line["frame"] for line in lines[4:-1]) == sorted(2 * ["000000", "000001", "000002"])
    for line in lines[4:-1]:
        assert line["bytes"] > 0 and line["detect_ms"] > 0 and (line["n"], line["k"]) == (2, 16)


def test_a_warm_receiver_answers_as_a_cold_one(model, codec):
    stream = EdgeEncoder(features_of_cloud(model), codec, Rate(2, 16))(cloud(4)).stream
    cold, warm = (Receiver(detections_of(model, EVERYTHING), codec) for _ in range(2))
    warm.warm_up()
    assert np.array_equal(warm(stream).detections.boxes, cold(stream).detections.boxes)


@pytest.mark.fault(10)
def test_ends_that_do_not_belong_together(files, model, capsys):
    with pytest.raises(CheckpointError, match=r"base\.pth holds no codec"):
        load_ends(files / "base.pth", files / "base.pth")
    torch.manual_seed(1)
    wide = PointPillars(SMALL_GRID, KITTI_CLASSES, Widths(16, (8, 8, 8), (1, 1, 1), 8))
    save_base(files / "wide.pth", wide, step=1)
    with pytest.raises(CheckpointError, match="16 pillar channels, the books of"):
        load_ends(files / "wide.pth", files / "final.pth")
    with pytest.raises(DataError, match="no point cloud at"):
        clouds_at(files / "nothing")
    assert edge_main([*both(files), "--points", str(files / "clouds")]) == 2
    assert "a rate is both n and k" in capsys.readouterr().err
    arguments = ["--rq_ckpt", str(files / "final.pth"), "--points", str(files), "--n", "1", "--k", "4"]
    assert edge_main(["--pretrained", str(files / "absent.pth"), *arguments]) == 2
    assert "train_pointpillars.py" in capsys.readouterr().err
