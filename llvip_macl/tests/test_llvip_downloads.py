"""Weights named by an address: held to the hash in their name, before and after they lie in torch's cache."""

import hashlib
import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from llvip_macl.runtime import checkpoints
from shared.errors import UserError

fault = pytest.mark.fault(16)
WEIGHTS = {"backbone.weight": torch.arange(6.0)}


def file_of(state) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


BODY = file_of(WEIGHTS)
HASHED = f"weights-{hashlib.sha256(BODY).hexdigest()[:8]}.pth"


class Server:
    """Answers every request on this machine with `body`, of which it announces `length` bytes."""

    def __init__(self, body: bytes, length: int | None = None):
        self.asked: list[str] = []
        server = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments): ...

        self.http = HTTPServer(("127.0.0.1", 0), Answer)

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *reason):
        self.http.shutdown()
        self.http.server_close()

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1/{name}"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch's cache, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch/hub/checkpoints"


def left_in(cache) -> list[str]:
    return [path.name for path in cache.iterdir()] if cache.exists() else []


@fault
def test_what_was_meant_is_fetched_once(cache):
    with Server(BODY) as server:
        address = server.address(HASHED)
        for _ in range(2):
            state = checkpoints.load_from_http(address)["state_dict"]
        assert server.asked == [f"/v1/{HASHED}"]
    assert torch.equal(state["backbone.weight"], WEIGHTS["backbone.weight"])
    assert left_in(cache) == [HASHED]
    damaged = bytearray(BODY)
    damaged[len(BODY) // 2] ^= 1
    (cache / HASHED).write_bytes(damaged)
    with pytest.raises(UserError, match=r"is not what its name says.*Remove it"):
        checkpoints.load_from_http(address)


@fault
@pytest.mark.parametrize(
    ("body", "length"),
    [(file_of({"other": torch.zeros(6)}), None), (BODY[:-100], None), (BODY[:-100], len(BODY)), (b"<html>", None)],
    ids=["other weights", "cut short", "connection lost", "HTML page"],
)
def test_what_came_otherwise_is_not_kept(cache, body, length):
    with Server(body, length) as server, pytest.raises(UserError, match=r"could not be fetched \(invalid hash value"):
        checkpoints.load_from_http(server.address(HASHED))
    assert left_in(cache) == []


@fault
def test_without_a_network_the_remedy_is_told(cache):
    with Server(BODY) as server:
        address = server.address(HASHED)
    with pytest.raises(UserError, match=r"could not be fetched.*load_from=PATH"):
        checkpoints.load_from_http(address)
    assert left_in(cache) == []


@fault
def test_an_address_without_a_hash_is_refused_by_the_command(cache, work):
    with Server(BODY) as server:
        asked = f"load_from={server.address('best.pth')}"
        work.refused("holds no hash in its name", "compare its sha256", options=[asked])
        assert server.asked == []
    assert left_in(cache) == []
