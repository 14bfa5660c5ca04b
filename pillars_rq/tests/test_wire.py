"""Edges and a server over TCP, with stand-ins for the detector: nothing lost, mixed up or brought down."""

import contextlib
import socket
import threading
import time

import numpy as np
import pytest
import zmq

from pillars_rq.bitstream.errors import StreamError
from pillars_rq.decode import Detections
from pillars_rq.wire.edge import EdgeClient, EdgeSettings
from pillars_rq.wire.link import Link
from pillars_rq.wire.protocol import (
    ERROR,
    FRAME,
    RESULT,
    Answer,
    Message,
    WireError,
    pack,
    pack_answer,
    token_hash,
    unpack,
    unpack_answer,
)
from pillars_rq.wire.server import DetectionServer, ServerSettings
from shared.errors import ConfigError

LOCAL = "tcp://127.0.0.1:*"
LONGEST_S = 60.0  # what a test waits for something that comes at once unless it is broken


def wait_for(condition):
    """Until it is true; a failure when it never is."""
    end = time.perf_counter() + LONGEST_S
    while not condition():
        assert time.perf_counter() < end
        time.sleep(0.005)


def detections_like(values):
    values = np.asarray(values, dtype=np.float32)
    boxes = np.repeat(values[:, None], 7, 1) + np.arange(7, dtype=np.float32)
    return Detections(boxes, values / 100, values.astype(np.int64))


def echo(stream):
    """An answer that says which stream it is to; `!` is refused, `?` is a defect."""
    if stream[:1] == b"!":
        raise StreamError("not a stream")
    if stream[:1] == b"?":
        raise RuntimeError("a defect")
    return Answer(detections_like([int(stream)]))


def slowly(seconds):
    def answer_of(stream):
        time.sleep(seconds)
        return echo(stream)

    return answer_of


@contextlib.contextmanager
def serving(answer_of=echo, endpoint=LOCAL, **settings):
    server, stop = DetectionServer(endpoint, answer_of, ServerSettings(**settings)), threading.Event()
    thread = threading.Thread(target=server.run, args=(stop,))
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        thread.join(LONGEST_S)
        assert not thread.is_alive()


def answers_of(replies):
    return {reply.number: int(reply.answer.detections.labels[0]) for reply in replies if reply.answer}


# ---------------------------------------------------------------- protocol


@pytest.mark.parametrize("count", [0, 1, 50])
def test_answers_come_back(count):
    answer = Answer(detections_like(np.arange(count)), 1.5, 2.5, 3.5)
    again = unpack_answer(pack_answer(answer))
    assert (again.queue_ms, again.decode_ms, again.detect_ms) == (1.5, 2.5, 3.5)
    for name in ("boxes", "scores", "labels"):
        mine, theirs = getattr(answer.detections, name), getattr(again.detections, name)
        assert np.array_equal(mine, theirs) and mine.dtype == theirs.dtype and mine.shape == theirs.shape


def test_messages_come_back():
    for message in (Message(FRAME, 2**40, b"abc", token_hash("secret")), Message(RESULT, 0, b"")):
        assert unpack([pack(message)]) == message


@pytest.mark.fault(18)
@pytest.mark.parametrize(
    "parts", [[], [b""], [b"PRW1"], [pack(Message(FRAME, 1)), b""], [b"X" * 60], [b"PRW1\x09" + bytes(60)],
              [pack(Message(FRAME, 1))[:30]]]
)  # fmt: skip
def test_what_is_no_message_is_refused(parts):
    with pytest.raises(WireError):
        unpack(parts)


@pytest.mark.fault(18)
def test_answers_of_a_wrong_length_are_refused():
    body = pack_answer(Answer(detections_like([1, 2])))
    for wrong in (body[:-1], body + b"\0", b"", body[:16]):
        with pytest.raises(WireError):
            unpack_answer(wrong)


def test_a_link_carries_one_thing_after_another():
    link = Link(8.0)  # a megabyte a second
    assert link.arrival_s(500_000, 10.0) == pytest.approx(10.5)
    assert link.arrival_s(500_000, 10.1) == pytest.approx(11.0)
    assert link.arrival_s(500_000, 20.0) == pytest.approx(20.5)
    assert Link().arrival_s(10**9, 3.0) == 3.0
    with pytest.raises(ConfigError, match="carries nothing"):
        Link(0)


# ---------------------------------------------------------------- frames and answers


def drive(endpoint, streams, hz, results, burst=1, **settings):
    with EdgeClient(endpoint, EdgeSettings(**settings)) as client:
        started, sent, replies = time.perf_counter(), {}, []
        for index, stream in enumerate(streams):
            client.wait_until(started + index // burst * burst / hz)
            sent[client.submit(stream)] = stream
            replies += client.replies()
        replies += client.drain()
        results.append((sent, replies, client.counts))


def edges_at_once(server, streams_by_edge, hz, **settings):
    """One edge a list, at a fixed rate in bursts; their (sent, replies, counts), each frame answered once."""
    results, settings = [], {"timeout_s": LONGEST_S} | settings  # on a busy machine nothing is sent twice
    threads = [threading.Thread(target=drive, args=(server.endpoint, streams, hz, results), kwargs=settings)
               for streams in streams_by_edge]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(streams_by_edge)
    for sent, replies, counts in results:
        assert sorted(reply.number for reply in replies) == sorted(sent)
        assert counts["answered"] == len(sent) and not counts["dropped"] + counts["refused"]
    assert server.counts["answered"] == sum(map(len, streams_by_edge))
    return results


def test_eight_edges_at_once():
    """Frames of 8 edges at a fixed rate, each with numbers of its own, come back to their own edge."""
    streams = [[b"%d" % (1000 * edge + index) for index in range(60)] for edge in range(8)]
    with serving(workers=2) as server:
        for sent, replies, _ in edges_at_once(server, streams, hz=40):
            assert answers_of(replies) == {number: int(stream) for number, stream in sent.items()}


def test_a_full_queue_answers_busy_and_the_edges_try_again():
    streams = [[b"%d" % (100 * edge + index) for index in range(20)] for edge in range(4)]
    with serving(slowly(0.005), queue_frames=2, per_edge=1) as server:
        results = edges_at_once(server, streams, hz=1e6)
        for sent, replies, counts in results:
            assert answers_of(replies) == {number: int(stream) for number, stream in sent.items()}
            assert sum(reply.busy for reply in replies) == counts["busy"] > 0
        assert server.counts["busy"] == sum(counts["busy"] for *_, counts in results)


def test_one_edge_cannot_take_the_whole_queue():
    """Its frames wait until another edge was served: with more than its share of the three workers, for ever."""
    served = threading.Event()

    def answer_of(stream):
        assert stream == b"7" or served.wait(LONGEST_S)
        return echo(stream)

    with serving(answer_of, workers=3, queue_frames=32, per_edge=2) as server:
        greedy = EdgeClient(server.endpoint, EdgeSettings(window=30, timeout_s=LONGEST_S))
        for value in range(100, 130):
            greedy.submit(str(value).encode())
        wait_for(lambda: server.counts["busy"] >= 28)
        with EdgeClient(server.endpoint) as modest:
            modest.submit(b"7")
            assert answers_of(modest.drain()) == {0: 7}
        served.set()
        assert answers_of(greedy.drain()) == {number: 100 + number for number in range(30)}
        assert greedy.counts["dropped"] == 0 and greedy.counts["busy"] >= 28
        greedy.close()


@pytest.mark.fault(18)
def test_streams_that_are_refused_and_defects_get_an_answer_and_the_server_lives(caplog):
    with serving() as server, EdgeClient(server.endpoint) as client:
        for stream in (b"!", b"?", b"5"):
            client.submit(stream)
        replies = {reply.number: reply for reply in client.drain()}
        assert "not a stream" in replies[0].error and "its log says why" in replies[1].error
        assert answers_of(replies.values()) == {2: 5}
        assert client.counts == {"refused": 2, "answered": 1}
        assert server.counts == {"rejected": 1, "failed": 1, "answered": 1}
    assert "a defect" in caplog.text


@pytest.mark.fault(18)
def test_only_the_token_opens():
    with serving(token="secret") as server:
        for token, outcome in (("secret", "answered"), ("Secret", "refused"), (None, "refused")):
            with EdgeClient(server.endpoint, EdgeSettings(token=token)) as client:
                client.submit(b"1")
                (reply,) = client.drain()
                assert client.counts == {outcome: 1}
                assert reply.error is None or "token" in reply.error
        assert server.counts == {"answered": 1, "refused": 2}


def test_addresses_that_cannot_be():
    with pytest.raises(ConfigError, match="open to other machines"):
        DetectionServer("tcp://0.0.0.0:*", echo)
    with pytest.raises(ConfigError, match="is no address"):
        EdgeClient("nowhere")
    with serving() as server, pytest.raises(ConfigError, match="cannot listen"):
        DetectionServer(server.endpoint, echo)


def free_endpoint():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def test_a_server_that_is_not_there_is_told():
    settings = EdgeSettings(timeout_s=0.05, retries=2)
    with EdgeClient(free_endpoint(), settings) as client:
        client.submit(b"1")
        (reply,) = client.drain()
    assert reply.tries == 3 and "is server.py running there" in reply.error
    assert client.counts["dropped"] == 1 and client.counts["resent"] == 2


def test_a_server_that_comes_late_gets_every_frame():
    endpoint = free_endpoint()
    with EdgeClient(endpoint, EdgeSettings(timeout_s=0.3, retries=1000)) as client:
        for value in range(3):
            client.submit(str(value).encode())
        client.wait_until(time.perf_counter() + 0.4)
        with serving(endpoint=endpoint):
            assert answers_of(client.drain()) == {0: 0, 1: 1, 2: 2}


@contextlib.contextmanager
def scripted(script):
    """A server that follows a script: `script(receive, send)`, where send(edge, number, value) answers."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        router.setsockopt(zmq.RCVTIMEO, int(1000 * LONGEST_S))
        port = router.bind_to_random_port("tcp://127.0.0.1")

        def receive():
            edge, data = router.recv_multipart()
            return edge, unpack([data]).number

        def send(edge, number, value):
            body = pack_answer(Answer(detections_like([value])))
            router.send_multipart([edge, pack(Message(RESULT, number, body))])

        thread = threading.Thread(target=script, args=(receive, send))
        thread.start()
        yield f"tcp://127.0.0.1:{port}"
        thread.join(LONGEST_S)
        assert not thread.is_alive()


def test_silence_is_answered_by_sending_again_and_an_answer_that_comes_twice_counts_once():
    """The server is silent to the first sending, then answers both; a second frame's answer comes behind them."""

    def script(receive, send):
        (edge, number), again = receive(), receive()
        assert again == (edge, number)
        send(edge, number, 9)
        send(edge, number, 9)
        while (later := receive()) == again:  # more of the first frame, sent before its answer arrived
            pass
        send(*later, 8)

    with scripted(script) as endpoint, EdgeClient(endpoint, EdgeSettings(timeout_s=0.2, retries=1000)) as client:
        client.submit(b"first")
        assert answers_of(client.drain()) == {0: 9}
        client.settings = EdgeSettings(timeout_s=LONGEST_S)
        client.submit(b"second")
        assert answers_of(client.drain()) == {1: 8}
        assert client.counts["resent"] >= 1 and client.counts["duplicates"] == 1 and client.counts["answered"] == 2


def test_a_busy_server_is_not_asked_for_ever():
    """The one frame that is being detected lasts until the edge has given the two others up."""
    dropped = threading.Event()

    def held(stream):
        assert dropped.wait(LONGEST_S)
        return echo(stream)

    settings = EdgeSettings(patience_s=0.1, timeout_s=LONGEST_S)
    with serving(held, queue_frames=1, per_edge=1) as server, EdgeClient(server.endpoint, settings) as client:
        for value in range(3):
            client.submit(str(value).encode())
        replies = []
        while client.counts["dropped"] < 2:
            client.wait_until(time.perf_counter() + 0.05)
            replies += client.replies()
        dropped.set()
        replies += client.drain()
        assert client.counts["dropped"] == 2 and client.counts["answered"] == 1 and len(replies) == 3
    assert sum("was busy for 0.1 s" in (reply.error or "") for reply in replies) == 2


def test_a_simulated_line_takes_its_time():
    with serving() as server, EdgeClient(server.endpoint, EdgeSettings(mbit_per_s=0.01)) as client:
        started = time.perf_counter()
        for _ in range(2):
            client.submit(b"1" + b" " * 79)  # 125 bytes with head and token: 0.1 s each
        assert len(answers_of(client.drain())) == 2
        assert time.perf_counter() - started >= 0.2


# ---------------------------------------------------------------- strangers


def stranger(endpoint):
    peer = zmq.Context.instance().socket(zmq.DEALER)
    peer.setsockopt(zmq.LINGER, 0)
    peer.connect(endpoint)
    return peer


@pytest.mark.fault(18)
def test_strangers_do_not_bring_it_down():
    with serving(max_frame_bytes=10_000) as server:
        peer = stranger(server.endpoint)
        for junk in ([b""], [b"hello"], [b"PRW1" + bytes(4)], [b"a", b"b", b"c"], [pack(Message(RESULT, 3))]):
            peer.send_multipart(junk)
            assert peer.poll(2000) and unpack([peer.recv()]).kind == ERROR
        peer.send(bytes(20_000))  # above the limit: the connection is cut
        peer.close()
        host, port = server.endpoint.removeprefix("tcp://").split(":")
        for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"\xff" * 9 + b"\x7f"):
            with socket.create_connection((host, int(port))) as raw:
                raw.sendall(junk)
        with EdgeClient(server.endpoint) as client:
            client.submit(b"3")
            assert answers_of(client.drain()) == {0: 3}
        assert server.counts["malformed"] == 5


def test_an_edge_that_leaves_does_not_hold_the_server():
    with serving(slowly(0.05)) as server:
        client = EdgeClient(server.endpoint)
        for value in range(3):
            client.submit(str(value).encode())
        client.wait_until(time.perf_counter() + 0.03)
        client.close()
        with EdgeClient(server.endpoint) as other:
            other.submit(b"8")
            assert answers_of(other.drain()) == {0: 8}
