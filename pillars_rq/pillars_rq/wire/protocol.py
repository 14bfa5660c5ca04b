"""What edge and server say to each other: one ZeroMQ message part each, little-endian, bounded.

    offset  size  field
    0       4     magic "PRW1"
    4       1     kind: 1 frame, 2 result, 3 busy, 4 error
    5       8     number of the frame, chosen by the edge; an answer repeats it
    13      32    frame: SHA-256 of the shared token, zeros without one
    ..            frame: the stream. result: `pack_answer`. error: UTF-8 text. busy: nothing

The token keeps strangers and mistakes out; it travels as its hash on an open line. Where somebody may listen, put the
connection into a tunnel (ssh, WireGuard).
"""

# M detections.

import hashlib
import hmac
import struct
from dataclasses import dataclass

import numpy as np

from shared.errors import UserError

from ..decode import Detections

MAGIC = b"PRW1"
HEAD = struct.Struct("<4sBQ")
TOKEN_BYTES = 32
FRAME, RESULT, BUSY, ERROR = 1, 2, 3, 4
NO_FRAME = 2**64 - 1  # number in an error about something that was not a frame
MAX_FRAME_BYTES = 8 << 20  # above the largest stream: 214,272 cells x 5 books x 2 bytes, and its map
MAX_REPLY_BYTES = 1 << 20
MAX_ERROR_CHARS = 500
TIMES = struct.Struct("<3fI")  # queue, decode, detect in ms; M
ROW = np.dtype([("box", "<f4", 7), ("score", "<f4"), ("label", "<i4")])


class WireError(UserError):
    """The other side did not answer, refused, or said something that is not of this protocol."""


@dataclass(frozen=True)
class Message:
    """One message: kind, number of the frame, and what follows (for a frame without its token)."""

    kind: int
    number: int
    body: bytes = b""
    token_hash: bytes = bytes(TOKEN_BYTES)


@dataclass(frozen=True)
class Answer:
    """A frame's detections, and where the server's time went in milliseconds."""

    detections: Detections
    queue_ms: float = 0.0
    decode_ms: float = 0.0
    detect_ms: float = 0.0


def token_hash(token: str | None) -> bytes:
    """32 bytes: the token's SHA-256, zeros for none."""
    return hashlib.sha256(token.encode()).digest() if token else bytes(TOKEN_BYTES)


def token_fits(message: Message, expected: bytes) -> bool:
    """Whether a frame's token is the server's, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(message.token_hash, expected)


def pack(message: Message) -> bytes:
    token = message.token_hash if message.kind == FRAME else b""
    return HEAD.pack(MAGIC, message.kind, message.number) + token + message.body


def unpack(parts: list[bytes]) -> Message:
    """The message of a ZeroMQ multipart (without its routing part); WireError for anything else."""
    if len(parts) != 1 or len(parts[0]) < HEAD.size:
        raise WireError(f"a message of {len(parts)} parts, {sum(map(len, parts))} bytes is not of this protocol.")
    magic, kind, number = HEAD.unpack_from(parts[0])
    body = parts[0][HEAD.size :]
    if magic != MAGIC or kind not in (FRAME, RESULT, BUSY, ERROR) or (kind == FRAME and len(body) < TOKEN_BYTES):
        raise WireError(f"a message that begins with {parts[0][:5]!r} is not of this protocol: {MAGIC!r} and 1 to 4.")
    if kind == FRAME:
        return Message(kind, number, body[TOKEN_BYTES:], body[:TOKEN_BYTES])
    return Message(kind, number, body)


def pack_answer(answer: Answer) -> bytes:
    """Times as float32, boxes (M, 7) and scores (M,) as float32, labels (M,) as int32."""
    found = answer.detections
    rows = np.empty(len(found), dtype=ROW)
    rows["box"], rows["score"], rows["label"] = found.boxes, found.scores, found.labels
    return TIMES.pack(answer.queue_ms, answer.decode_ms, answer.detect_ms, len(found)) + rows.tobytes()


def unpack_answer(body: bytes) -> Answer:
    """The answer of `pack_answer`; WireError when its length is not what it says."""
    if len(body) < TIMES.size:
        raise WireError(f"a result of {len(body)} bytes is too short.")
    *times, count = TIMES.unpack_from(body)
    if len(body) != TIMES.size + count * ROW.itemsize:
        raise WireError(f"a result of {len(body)} bytes cannot hold {count} detections.")
    rows = np.frombuffer(body, dtype=ROW, offset=TIMES.size)
    boxes, scores, labels = (rows[name].copy() for name in ("box", "score", "label"))
    return Answer(Detections(boxes.astype(np.float32), scores.astype(np.float32), labels.astype(np.int64)), *times)


def pack_error(number: int, text: str) -> bytes:
    return pack(Message(ERROR, number, text[:MAX_ERROR_CHARS].encode()))
