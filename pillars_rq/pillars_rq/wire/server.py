"""The server's side of the wire: frames in, a bounded queue, workers, answers out.

    server = DetectionServer("tcp://127.0.0.1:5557", answer_of, settings)
    server.run(stop)                       # until the event is set

One thread owns the socket and never computes; it answers BUSY at once when the queue is full, and the edge tries again.
Workers call `answer_of(stream) -> Answer`. A stream that is refused (`StreamError`) gets an error answer; so does a
defect of our own, which is logged with its traceback: one frame never ends the server. What waits is bounded: the
queue, each edge's share of it, the size of a message, ZeroMQ's own queues.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import zmq

from shared.errors import ConfigError, UserError

from .protocol import (
    BUSY,
    FRAME,
    MAX_FRAME_BYTES,
    NO_FRAME,
    RESULT,
    Answer,
    Message,
    WireError,
    pack,
    pack_answer,
    pack_error,
    token_fits,
    token_hash,
    unpack,
)

LOCAL = ("tcp://127.0.0.1:", "tcp://localhost:", "tcp://[::1]:", "inproc://", "ipc://")
POLL_MS = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerSettings:
    """token: shared secret, needed when others than this machine can connect. queue_frames: frames that wait, over all
    edges. per_edge: of one edge. workers: frames at once. high_water: messages ZeroMQ keeps for one edge."""

    token: str | None = None
    queue_frames: int = 32
    per_edge: int = 8
    workers: int = 1
    max_frame_bytes: int = MAX_FRAME_BYTES
    high_water: int = 64


@dataclass(frozen=True)
class _Job:
    edge: bytes
    number: int
    stream: bytes
    since_s: float


class DetectionServer:
    """Binds at once, so that a taken address is known before anything else starts; `run` serves.

    Attributes:
        endpoint: the address, with the port that was found when 0 was asked for (`tcp://127.0.0.1:*`).
        counts: answered, busy, refused (token), malformed, rejected (stream), failed (our defect), unreachable (edge).

    Raises:
        ConfigError: an address that cannot be bound, or one open to others without a token.
    """

    def __init__(self, endpoint: str, answer_of: Callable[[bytes], Answer], settings: ServerSettings | None = None):
        self.settings = settings or ServerSettings()
        if not endpoint.startswith(LOCAL) and not self.settings.token:
            raise ConfigError(f"{endpoint} is open to other machines: give a token, or listen on tcp://127.0.0.1:PORT.")
        self.answer_of, self.counts = answer_of, Counter()
        self._expected = token_hash(self.settings.token)
        self._jobs: queue.Queue[_Job] = queue.Queue(self.settings.queue_frames)
        self._waiting: Counter[bytes] = Counter()
        self._context = zmq.Context()
        self._socket = self._bound(endpoint)
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._answers = self._context.socket(zmq.PULL)
        self._answers.bind("inproc://answers")

    def _bound(self, endpoint: str) -> zmq.Socket:
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, self.settings.max_frame_bytes)
        socket.setsockopt(zmq.RCVHWM, self.settings.high_water)
        socket.setsockopt(zmq.SNDHWM, self.settings.high_water)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an edge that is gone is an error we count, not a silent loss
        socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15000)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            socket.close()
            self._context.term()
            raise ConfigError(
                f"cannot listen on {endpoint} ({error}); choose a free port, as tcp://HOST:PORT."
            ) from error
        return socket

    def run(self, stop: threading.Event, stopped: Callable[[], bool] = lambda: False) -> None:
        """Serve until `stop` is set or `stopped()` is true (asked every 50 ms); then let the workers end their frames,
        drop what waits, close, and return.

        A command gives `shared.run.stop_requested`, under `deferred`: a signal that raised wherever it arrived could be
        lost in a destructor, or leave the queue's lock taken.
        """
        workers = [threading.Thread(target=self._work, args=(stop,), daemon=True) for _ in range(self.settings.workers)]
        for worker in workers:
            worker.start()
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._answers, zmq.POLLIN)
        try:
            while not (stop.is_set() or stopped()):
                for socket, _ in poller.poll(POLL_MS):
                    if socket is self._answers:
                        self._send_answer()
                    else:
                        self._receive()
        finally:
            stop.set()
            for worker in workers:
                worker.join()
            self._context.destroy(linger=0)

    # --- the thread that owns the socket ---

    def _receive(self) -> None:
        edge, *parts = self._socket.recv_multipart()
        try:
            message = unpack(parts)
            if message.kind != FRAME:
                raise WireError("only frames are sent to a server.")
        except WireError as error:
            self.counts["malformed"] += 1
            self._send(edge, pack_error(NO_FRAME, str(error)))
            return
        if not token_fits(message, self._expected):
            self.counts["refused"] += 1
            self._send(edge, pack_error(message.number, "the token is not this server's: use the same."))
            return
        self._enqueue(_Job(edge, message.number, message.body, time.perf_counter()))

    def _enqueue(self, job: _Job) -> None:
        full = self._waiting[job.edge] >= self.settings.per_edge
        if not full:
            try:
                self._jobs.put_nowait(job)
                self._waiting[job.edge] += 1
            except queue.Full:
                full = True
        if full:
            self.counts["busy"] += 1
            self._send(job.edge, pack(Message(BUSY, job.number)))

    def _send_answer(self) -> None:
        edge, data, outcome = self._answers.recv_multipart()
        self._waiting[edge] -= 1
        if not self._waiting[edge]:
            del self._waiting[edge]
        self.counts[outcome.decode()] += 1
        self._send(edge, data)

    def _send(self, edge: bytes, data: bytes) -> None:
        try:
            self._socket.send_multipart([edge, data], flags=zmq.DONTWAIT)
        except zmq.ZMQError as error:  # it went away, or does not read: its own timeout tells it
            self.counts["unreachable"] += 1
            log.info("an edge cannot be reached (%s)", error)

    # --- the workers ---

    def _work(self, stop: threading.Event) -> None:
        answers = self._context.socket(zmq.PUSH)
        answers.connect("inproc://answers")
        try:
            while not stop.is_set():
                try:
                    job = self._jobs.get(timeout=POLL_MS / 1000)
                except queue.Empty:
                    continue
                data, outcome = self._answer(job)
                answers.send_multipart([job.edge, data, outcome.encode()])
        finally:
            answers.close(linger=0)

    def _answer(self, job: _Job) -> tuple[bytes, str]:
        queue_ms = 1000 * (time.perf_counter() - job.since_s)
        try:
            answer = replace(self.answer_of(job.stream), queue_ms=queue_ms)
            return pack(Message(RESULT, job.number, pack_answer(answer))), "answered"
        except UserError as error:
            return pack_error(job.number, str(error)), "rejected"
        except Exception:
            log.exception("frame %d of %d bytes ended in a defect of ours", job.number, len(job.stream))
            return pack_error(job.number, "the server failed on this frame; its log says why."), "failed"
