"""The server under the real network: edges that encode clouds of the embedded grid, a server that detects in them.

Every frame is a cloud of its own, so an answer that belongs to another frame has other boxes; what each has to be is
computed in this process from the same stream.
"""

import numpy as np
import pytest
import torch
from rq_samples import codec_of_features
from test_wire import edges_at_once, serving

from pillars_rq.base_config import PACKAGE_ROOT, BaseConfig
from pillars_rq.decode import Decoding
from pillars_rq.network import PointPillars, Widths
from pillars_rq.wire.split import EdgeEncoder, Rate, Receiver, detections_of, features_of_cloud
from shared.config import load_config

NARROW = Widths(8, (8, 8, 8), (1, 1, 1), 8)
EVERYTHING = Decoding(min_score=0.0, limit_m=None, max_boxes=20)
N, K = 2, 16


def embedded_network(widths=None):
    """exp/base_embedded.yaml's network, or one of its grid with other widths; random weights."""
    settings = load_config(BaseConfig, [PACKAGE_ROOT / "exp" / "base_embedded.yaml"]).model
    torch.manual_seed(0)
    model = PointPillars(settings.build_grid(), settings.build_classes(), widths or settings.build_widths())
    return model.eval().requires_grad_(False)


def cloud(model, seed, count=3000):
    """Points around a few places in the range, other places for each seed."""
    rng, (low, high) = np.random.default_rng(seed), np.array(model.grid.range_m).reshape(2, 3)
    places = rng.uniform(low[:2] + 3, high[:2] - 3, (12, 2))
    points = np.empty((count, 4), dtype=np.float32)
    points[:, :2] = places[rng.integers(0, 12, count)] + rng.normal(0, 1, (count, 2))
    points[:, 2:] = rng.uniform((-2.5, 0), (0.5, 1), (count, 2))
    return points


def split_network(widths=None):
    """An edge's encoder and a server's receiver of one network, the books fitted to it."""
    model = embedded_network(widths)
    head = features_of_cloud(model)
    features = torch.cat([head(cloud(model, seed))[0] for seed in (90_001, 90_002)])
    codec = codec_of_features(features, model.grid, N, (4, K))
    encoder = EdgeEncoder(head, codec, Rate(N, K))
    return lambda seed: encoder(cloud(model, seed)).stream, Receiver(detections_of(model, EVERYTHING), codec)


def boxes_of(answer):
    found = answer.detections
    return np.concatenate([found.boxes, found.scores[:, None], found.labels[:, None]], 1).astype(np.float32)


def check_every_answer(results, receiver):
    """Each is bit by bit its own frame's, and no other frame has the same."""
    seen = set()
    for sent, replies, _ in results:
        for reply in replies:
            boxes = boxes_of(reply.answer)
            assert len(boxes) > 0 and np.array_equal(boxes, boxes_of(receiver(sent[reply.number])))
            seen.add(boxes.tobytes())
    assert len(seen) == sum(len(sent) for sent, *_ in results)


def test_four_edges_at_a_small_queue():
    """5 s of bursts of two frames from each edge, of which one may wait: BUSY, tried again, none lost or mixed up."""
    stream_of, receiver = split_network(NARROW)
    streams = [[stream_of(100 * edge + index) for index in range(12)] for edge in range(4)]
    with serving(receiver, queue_frames=2, per_edge=1) as server:
        results = edges_at_once(server, streams, hz=2, burst=2)
        assert server.counts["busy"] == sum(counts["busy"] for *_, counts in results) > 0
        assert not server.counts["rejected"] + server.counts["failed"] + server.counts["unreachable"]
    check_every_answer(results, receiver)
    assert sum(reply.tries for _, replies, _ in results for reply in replies) == 48 + server.counts["busy"]


@pytest.mark.slow
def test_eight_edges_for_a_minute():
    """The embedded network at its own widths, one frame a second from each edge."""
    stream_of, receiver = split_network()
    streams = [[stream_of(100 * edge + index) for index in range(60)] for edge in range(8)]
    with serving(receiver, queue_frames=4, per_edge=2) as server:
        results = edges_at_once(server, streams, hz=1.0)
    check_every_answer(results, receiver)
    slowest_ms = max(reply.round_trip_ms for _, replies, _ in results for reply in replies)
    print(f"busy {server.counts['busy']}, slowest round trip {slowest_ms:.0f} ms")
