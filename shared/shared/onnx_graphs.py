"""ONNX graphs of PyTorch modules: the export, its optional extra, and a session of ONNX Runtime to try them in.

    graph = to_onnx(module, {"image": torch.zeros(1, 3, 64, 96)}, ["boxes"])         # bytes, not yet written
    boxes, = session_of(graph).run(None, {"image": pixels})                          # compare with PyTorch, then write

The exporter is torch.export's (`dynamo=True`, torch 2.10's default, needs onnxscript): it says what it cannot
express, while the older TorchScript one is deprecated and bakes Python numbers in silently.
"""

import contextlib
import importlib.metadata
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UserError

OPSET = 18
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")


def require_extra() -> None:
    """UserError with the remedy where the packages of the extra `export` are missing."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401 - torch.onnx asks for it late, with a message of its own
    except ImportError as error:
        raise UserError(
            f"the export needs the extra `export` ({error.name} is missing): pip install -e .[export]"
        ) from error


def to_onnx(module: nn.Module, example: Mapping[str, Tensor], outputs: Sequence[str], shapes: Any = None) -> bytes:
    """The graph of a module in eval mode, serialised.

    example: the inputs by name, in the order of `forward`; outputs: their names; shapes: torch.export's dynamic shapes
    (None: those of the example). Raises UserError without the extra.
    """
    require_extra()
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(example.values()),
            dynamo=True,
            input_names=list(example),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            verbose=False,
        )
    return program.model_proto.SerializeToString()


def session_of(graph: bytes) -> Any:
    """A graph in ONNX Runtime, on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def versions() -> dict[str, str]:
    """The packages that made and judged a graph, for its record."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch.onnx's remarks about operators of other libraries and its own deprecations."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
