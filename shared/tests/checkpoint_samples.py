"""States that tell their step, and a child to do dangerous things in."""

import contextlib
import os

import pytest
import torch

from shared.errors import StorageError


def state_of(step: int, values: int = 4096) -> dict:
    """A state whose every part tells its step."""
    generator = torch.Generator().manual_seed(step)
    return {"weights": torch.randn(values, generator=generator), "step": step, "nested": {"list": [step, None, "x"]}}


def is_state_of(state: dict, step: int) -> bool:
    expected = state_of(step, len(state["weights"]))
    return torch.equal(state["weights"], expected["weights"]) and state["step"] == step == state["nested"]["list"][0]


def in_child(body) -> str:
    """What `body` returns, run in a forked process (for limits and signals that must not touch this one)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.write(writer, str(body()).encode())
            code = 0
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child failed: {text}"
    return text


def storage_failure(body) -> str:
    """The message of the StorageError that `body` must end with."""
    with pytest.raises(StorageError) as error:
        body()
    return str(error.value)
