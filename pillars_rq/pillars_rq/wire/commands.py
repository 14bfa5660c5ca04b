"""The commands `edge.py` and `server.py`.

    python server.py --pretrained pretrained/epoch_160.pth --rq_ckpt progressive_rq_logs/checkpoints/final.pth
    python edge.py --pretrained .. --rq_ckpt .. --points datasets/training/velodyne_reduced --n 2 --k 256
    python edge.py .. --target-kb 8 --rate-hz 10 --simulate-bandwidth 5

Both ends load the same two files. The server prints its address when it is ready, and its counts when it ends (SIGINT
or SIGTERM). The edge prints one line of JSON for each frame: bytes and where the milliseconds went.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared import checkpoint
from shared.errors import CheckpointError, ConfigError, DataError
from shared.run import deferred, run_command, stop_requested

from ..bitstream.codec import Codec, codec_from
from ..decode import Decoding, Detections
from ..kitti.clouds import read_points
from ..network import PointPillars
from ..weights import load_base
from .edge import EdgeClient, EdgeSettings, Reply
from .server import DetectionServer, ServerSettings
from .split import EdgeEncoder, Encoded, Rate, Receiver, detections_of, features_of_cloud

TOKEN_VARIABLE = "PILLARS_RQ_TOKEN"  # an argument would be readable by every user of the machine
ADDRESS = "tcp://127.0.0.1:5557"


@dataclass(frozen=True)
class Ends:
    """What both ends load."""

    model: PointPillars
    codec: Codec


def load_ends(pretrained: Path, rq_ckpt: Path) -> Ends:
    """The base detector, and the codec of an RQ checkpoint.

    Raises CheckpointError: missing, damaged, without a codec, or books and detector that do not belong together.
    """
    state = checkpoint.load_weights(rq_ckpt)
    if "codec" not in state:
        raise CheckpointError(f"{rq_ckpt} holds no codec (keys: {list(state)[:5]}); give final.pth of a run.")
    codec = codec_from(state["codec"], str(rq_ckpt))
    if not codec.quantizer.points():
        raise CheckpointError(f"the books of {rq_ckpt} hold no size yet; give final.pth of a finished run.")
    model = load_base(pretrained, codec.grid).model
    if model.widths.pillar != codec.quantizer.dim:
        raise CheckpointError(
            f"{pretrained} has {model.widths.pillar} pillar channels, the books of {rq_ckpt} {codec.quantizer.dim}: "
            "they were not trained together."
        )
    return Ends(model, codec)


# ---------------------------------------------------------------- server.py


def server_main(argv: Sequence[str] | None = None) -> int:
    parser = _parser("Receive, decode, detect, reply.")
    parser.add_argument("--listen", default=ADDRESS, help=f"default {ADDRESS}; other interfaces need a token")
    parser.add_argument("--queue", type=int, default=32, help="frames that may wait (default 32), then edges hear BUSY")
    parser.add_argument("--workers", type=int, default=1, help="frames detected at once (default 1)")
    parser.add_argument("--min_score", type=float, default=0.1, help="detections below are left out (default 0.1)")
    args = parser.parse_args(argv)
    return run_command(lambda: _serve(args))


def _serve(args: argparse.Namespace) -> int:
    if min(args.queue, args.workers) < 1:
        raise ConfigError(f"--queue {args.queue} --workers {args.workers}: both are at least 1.")
    ends = load_ends(args.pretrained, args.rq_ckpt)
    receiver = Receiver(detections_of(ends.model, Decoding(min_score=args.min_score), args.device), ends.codec)
    settings = ServerSettings(token=os.environ.get(TOKEN_VARIABLE), queue_frames=args.queue, workers=args.workers)
    server = DetectionServer(args.listen, receiver, settings)
    receiver.warm_up()
    with deferred():  # a signal ends the loop, and is raised when all is closed
        print(f"listening on {server.endpoint}; the books hold {ends.codec.quantizer.describe()}", flush=True)
        try:
            server.run(threading.Event(), stop_requested)
        finally:
            print(json.dumps({"served": dict(server.counts)}), flush=True)
    return 0


# ---------------------------------------------------------------- edge.py


def edge_main(argv: Sequence[str] | None = None) -> int:
    parser = _parser("Voxelize, encode, send; print one line of JSON for each frame.")
    parser.add_argument("--server", default=ADDRESS, help=f"default {ADDRESS}")
    parser.add_argument("--points", type=Path, required=True, help="a .bin cloud (x, y, z, reflectance) or a folder")
    parser.add_argument("--n", type=int, help="codebooks to send")
    parser.add_argument("--k", type=int, help="embeddings of each")
    parser.add_argument("--target-kb", type=float, help="instead of --n and --k: the best that fits, frame by frame")
    parser.add_argument("--beam", type=int, default=1, help="beam width of the encoder (default 1: greedy)")
    parser.add_argument("--rate-hz", type=float, help="frames a second to offer (default: as fast as answered)")
    parser.add_argument("--repeat", type=int, default=1, help="go through the clouds so many times")
    parser.add_argument("--simulate-bandwidth", type=float, metavar="MBIT_S", help="send as if over such a line")
    args = parser.parse_args(argv)
    return run_command(lambda: _drive(args))


def _drive(args: argparse.Namespace) -> int:
    if args.rate_hz is not None and not args.rate_hz > 0:
        raise ConfigError(f"--rate-hz {args.rate_hz}: a rate is above 0; leave it out for as fast as possible.")
    ends = load_ends(args.pretrained, args.rq_ckpt)
    rate = Rate(args.n, args.k, args.target_kb, args.beam)
    encoder = EdgeEncoder(features_of_cloud(ends.model, args.device), ends.codec, rate)
    settings = EdgeSettings(token=os.environ.get(TOKEN_VARIABLE), mbit_per_s=args.simulate_bandwidth)
    sent: dict[int, tuple[str, Encoded]] = {}
    with EdgeClient(args.server, settings) as client:
        for path in _paced(clouds_at(args.points) * args.repeat, args.rate_hz, client):
            encoded = encoder(read_points(path))
            sent[client.submit(encoded.stream)] = path.stem, encoded
            _print_replies(client.replies(), sent)
        _print_replies(client.drain(), sent)
        counts = dict(client.counts)
    print(json.dumps({"sent": counts}), flush=True)
    return 0 if counts.get("answered", 0) == len(clouds_at(args.points)) * args.repeat else 1


def clouds_at(path: Path) -> list[Path]:
    """The .bin files at a path, sorted; DataError when there is none."""
    found = sorted(path.glob("*.bin")) if path.is_dir() else [path] if path.is_file() else []
    if not found:
        raise DataError(f"no point cloud at {path}: give a .bin file, or a folder of them such as velodyne_reduced.")
    return found


def _paced(paths: Sequence[Path], rate_hz: float | None, client: EdgeClient) -> Iterator[Path]:
    """The paths, one every 1 / rate_hz seconds from now; answers are taken meanwhile."""
    started = time.perf_counter()
    for index, path in enumerate(paths):
        if rate_hz is not None:
            client.wait_until(started + index / rate_hz)
        yield path


def _print_replies(replies: Sequence[Reply] | Iterator[Reply], sent: dict[int, tuple[str, Encoded]]) -> None:
    for reply in replies:
        print(json.dumps(frame_record(*sent.pop(reply.number), reply)), flush=True)


def frame_record(name: str, encoded: Encoded, reply: Reply) -> dict:
    """What one frame cost: bytes, milliseconds of each part, sendings, detections or the error."""
    answer = reply.answer
    record = {
        "frame": name,
        "pillars": encoded.pillars,
        "n": encoded.n,
        "k": encoded.k,
        "bytes": reply.bytes,
        "headnet_ms": encoded.headnet_ms,
        "encode_ms": encoded.encode_ms,
        "round_trip_ms": reply.round_trip_ms,
        "tries": reply.tries,
        "busy": reply.busy,
    }
    if answer is None:
        return record | {"error": reply.error}
    record |= {"queue_ms": answer.queue_ms, "decode_ms": answer.decode_ms, "detect_ms": answer.detect_ms}
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in record.items()}
    return rounded | {"detections": _rows(answer.detections)}


def _rows(found: Detections) -> list[dict]:
    return [
        {"label": int(label), "score": round(float(score), 4), "box": np.round(box.astype(float), 3).tolist()}
        for label, score, box in zip(found.labels, found.scores, found.boxes, strict=True)
    ]


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, epilog=f"A shared token is read from the environment variable {TOKEN_VARIABLE}."
    )
    parser.add_argument("--pretrained", type=Path, required=True, help="base detector: epoch_160.pth or our base.pth")
    parser.add_argument("--rq_ckpt", type=Path, required=True, help="final.pth of train_eval_rq.py: books and tables")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    return parser
