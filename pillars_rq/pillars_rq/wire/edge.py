"""The edge's side of the wire: frames out within a window, answers in, retries when the server is busy or silent.

    with EdgeClient("tcp://127.0.0.1:5557", settings) as client:
        client.submit(stream)              # waits only while the window is full
        for reply in client.replies(): ...     # what has come so far
        client.drain()                     # waits for the rest

BUSY is back-pressure: the frame is sent again after a pause that doubles up to a second. Silence is a loss: the frame
is sent again after `timeout_s`, `retries` times, and then counts as dropped. An answer is matched to its frame by
number; one that comes twice is counted and left aside.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import zmq

from shared.errors import ConfigError

from .link import Link
from .protocol import (
    BUSY,
    ERROR,
    FRAME,
    HEAD,
    MAX_REPLY_BYTES,
    RESULT,
    TOKEN_BYTES,
    Answer,
    Message,
    WireError,
    pack,
    token_hash,
    unpack,
    unpack_answer,
)

LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True)
class EdgeSettings:
    """window: frames under way. timeout_s: silence before a frame is sent again, `retries` times. pause_s: the first
    wait after BUSY. patience_s: how long a busy server is asked in all. mbit_per_s: simulated bandwidth."""

    token: str | None = None
    window: int = 4
    timeout_s: float = 10.0
    retries: int = 3
    pause_s: float = 0.02
    patience_s: float = 120.0
    mbit_per_s: float | None = None


@dataclass(frozen=True)
class Reply:
    """What became of a frame: its answer, or why there is none. bytes: of the stream; tries and busy: sendings and BUSY
    answers; round_trip_ms: from `submit` to here, waiting included."""

    number: int
    answer: Answer | None
    error: str | None
    bytes: int
    tries: int
    busy: int
    round_trip_ms: float


@dataclass
class _Pending:
    stream: bytes
    submitted_s: float
    send_at_s: float
    sent_at_s: float | None = None
    tries: int = 0
    silent: int = 0
    busy: int = 0


@dataclass
class EdgeClient:
    """One connection to a server; not for several threads at once.

    Attributes:
        counts: answered, busy, refused (error answers), dropped (no answer within the patience), duplicates, resent,
            unsent (ZeroMQ's queue was full).

    Raises ConfigError for an address that ZeroMQ does not know.
    """

    endpoint: str
    settings: EdgeSettings = field(default_factory=EdgeSettings)

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._link = Link(self.settings.mbit_per_s)
        self._token = token_hash(self.settings.token)
        self._pending: dict[int, _Pending] = {}
        self._done: list[Reply] = []
        self._next = 0
        self._context = zmq.Context()
        self._socket = self._connected()

    def _connected(self) -> zmq.Socket:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_REPLY_BYTES)
        socket.setsockopt(zmq.SNDHWM, 2 * self.settings.window)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        try:
            socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise ConfigError(f"{self.endpoint} is no address ({error}); give tcp://HOST:PORT.") from error
        return socket

    def __enter__(self) -> "EdgeClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._context.destroy(linger=0)

    # --- what a caller does ---

    def submit(self, stream: bytes) -> int:
        """Hand a frame over; its number. Waits while `window` frames are under way."""
        while len(self._pending) >= self.settings.window:
            self._pump()
        now, number = time.perf_counter(), self._next
        size = HEAD.size + TOKEN_BYTES + len(stream)
        self._pending[number] = _Pending(stream, now, self._link.arrival_s(size, now))
        self._next += 1
        self._pump(wait=False)
        return number

    def replies(self) -> Iterator[Reply]:
        """What has come since the last call, in order of arrival."""
        self._pump(wait=False)
        done, self._done = self._done, []
        return iter(done)

    def drain(self) -> list[Reply]:
        """Wait until nothing is under way; the replies since the last call."""
        while self._pending:
            self._pump()
        return list(self.replies())

    def wait_until(self, when_s: float) -> None:
        """Keep the connection going until a time of `time.perf_counter`."""
        while (left := when_s - time.perf_counter()) > 0:
            if self._pending:
                self._pump(longest_s=left)
            else:
                time.sleep(left)

    # --- what happens meanwhile ---

    def _pump(self, wait: bool = True, longest_s: float = 1.0) -> None:
        """Send what is due, take what has come, and look for silence; waits for one of them to happen."""
        self._send_due()
        timeout_ms = max(1, int(1000 * min(longest_s, self._until_next_event()))) if wait else 0
        if self._socket.poll(timeout_ms):
            while self._socket.poll(0):
                self._take(self._socket.recv_multipart())
        self._look_for_silence()

    def _send_due(self) -> None:
        now = time.perf_counter()
        for number, frame in self._pending.items():
            if frame.sent_at_s is not None or frame.send_at_s > now:
                continue
            try:
                self._socket.send(pack(Message(FRAME, number, frame.stream, self._token)), flags=zmq.DONTWAIT)
            except zmq.Again:  # ZeroMQ's queue is full, nobody takes from it: as good as sent and lost
                self.counts["unsent"] += 1
            frame.sent_at_s, frame.tries = now, frame.tries + 1

    def _until_next_event(self) -> float:
        now = time.perf_counter()
        events = [frame.send_at_s if frame.sent_at_s is None else frame.sent_at_s + self.settings.timeout_s
                  for frame in self._pending.values()]  # fmt: skip
        return max(0.0, min(events, default=now) - now)

    def _take(self, parts: list[bytes]) -> None:
        message = unpack(parts)
        frame = self._pending.get(message.number)
        if frame is None:
            self.counts["duplicates"] += 1
        elif message.kind == BUSY:
            self._postpone(message.number, frame)
        elif message.kind == RESULT:
            self._finish(message.number, "answered", answer=unpack_answer(message.body))
        elif message.kind == ERROR:
            self._finish(message.number, "refused", error=message.body.decode(errors="replace"))
        else:
            raise WireError("the server sent a frame; is an edge listening at this address?")

    def _postpone(self, number: int, frame: _Pending) -> None:
        """The server is busy: ask again after a pause that doubles."""
        now = time.perf_counter()
        frame.busy += 1
        self.counts["busy"] += 1
        if now - frame.submitted_s > self.settings.patience_s:
            self._finish(number, "dropped", error=f"the server was busy for {self.settings.patience_s:g} s.")
            return
        pause = min(LONGEST_PAUSE_S, self.settings.pause_s * 2 ** min(frame.busy - 1, 10))
        frame.sent_at_s, frame.send_at_s = None, self._link.arrival_s(len(frame.stream), now + pause)

    def _look_for_silence(self) -> None:
        now = time.perf_counter()
        for number, frame in list(self._pending.items()):
            if frame.sent_at_s is None or now - frame.sent_at_s <= self.settings.timeout_s:
                continue
            if frame.silent >= self.settings.retries:
                self._finish(number, "dropped", error=f"no answer from {self.endpoint} to {frame.tries} sendings, "
                             f"{self.settings.timeout_s:g} s each; is server.py running there?")  # fmt: skip
                continue
            self.counts["resent"] += 1
            frame.silent += 1
            frame.sent_at_s, frame.send_at_s = None, self._link.arrival_s(len(frame.stream), now)

    def _finish(self, number: int, outcome: str, answer: Answer | None = None, error: str | None = None) -> None:
        frame = self._pending.pop(number)
        self.counts[outcome] += 1
        round_trip_ms = 1000 * (time.perf_counter() - frame.submitted_s)
        self._done.append(Reply(number, answer, error, len(frame.stream), frame.tries, frame.busy, round_trip_ms))
