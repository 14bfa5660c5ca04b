"""Checkpoints of this package: whole or absent, verified, and free of everything that could run code.

    work_dir/epoch_3.pth            the state after an epoch: weights, optimizer, position, random states
             iter_41.pth            the same in mid-epoch (after a signal, or every checkpoint_interval_iters)
             best_epoch3_loss0.2711.pth   weights alone; best.pth leads to the newest of them
             <each>.json            its manifest (`shared.checkpoint`)
             last_checkpoint        names the one to continue from

Ours hold tensors and plain Python, so that `torch.load(path, weights_only=True)` reads them. A checkpoint of stock
MMEngine also holds its log: HistoryBuffer and numpy numbers. It is read as weights only, with the names that such a
log consists of bound to stand-ins which do nothing. Any other global in a pickle is refused and named; nothing is read
in an unsafe way, on no path: MMEngine's own loaders (of `init_cfg`, of addresses) are replaced by these.
"""

import logging
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared import checkpoint
from shared.errors import CheckpointError, UserError

LAST, BEST = "last_checkpoint", "best.pth"
EPOCH, ITERATION = re.compile(r"epoch_(\d+)\.pth"), re.compile(r"iter_(\d+)\.pth")
SCALARS = (str, int, float, bool, type(None))

log = logging.getLogger("shared.llvip_macl")  # below `shared`: the run's folder shows and keeps what it says


# --- what stock checkpoints hold beside weights -----------------------------------------------------------------------


class _Record:
    """Stands for everything that a stock checkpoint's log names; takes any arguments and state, and does nothing."""

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


_LOG_NAMES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # HistoryBuffer.mean is stored as getattr(HistoryBuffer, "mean")
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Int64", "Int32", "UInt32", "Bool")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_weights(path: Path | str, sha256: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state dict, meta) of a checkpoint of this package, of stock MMEngine, or of a bare state dict.

    Verified against its manifest, else against `sha256`; with neither a warning says so. A name that leads elsewhere
    (best.pth) is followed.

    Raises:
        CheckpointError: missing, damaged, refused (the offending global is named), or without weights.
    """
    path = Path(path).expanduser()
    target = path.resolve() if path.is_symlink() else path
    with torch.serialization.safe_globals([(_Record, name) for name in _LOG_NAMES]):
        content = checkpoint.load_weights(target, sha256)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no state_dict of tensors (it has {', '.join(map(str, content))[:200]}); "
                              "give a checkpoint of MMEngine or a bare state dict.")  # fmt: skip
    meta = content.get("meta")
    return dict(state), meta if isinstance(meta, dict) else {}


def read_state(path: Path | str) -> dict[str, Any]:
    """The whole training state of a checkpoint of this package, verified.

    Raises:
        CheckpointError: missing, damaged, refused, or not a training state (weights belong to load_from).
    """
    state = checkpoint.load(path)
    if not {"state_dict", "position", "optimizer"} <= state.keys():
        raise CheckpointError(f"{path} holds weights and no training state: nothing can be resumed from it. "
                              f"For its weights use --cfg-options load_from={path}")  # fmt: skip
    return state


def use_safe_loading() -> None:
    """From now on MMEngine reads files and addresses (`init_cfg`, `torchvision://...`) through `read_weights`."""
    from mmengine.runner.checkpoint import CheckpointLoader

    CheckpointLoader.register_scheme("", load_from_local, force=True)
    CheckpointLoader.register_scheme(("http://", "https://"), load_from_http, force=True)
    CheckpointLoader.register_scheme(("modelzoo://", "torchvision://"), load_from_torchvision, force=True)


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """For MMEngine: {"state_dict": ...} of a file."""
    state, meta = read_weights(filename)
    return {"state_dict": state, "meta": meta}


def load_from_http(filename: str, map_location: Any = None) -> dict[str, Any]:
    """For MMEngine: downloaded once into torch's cache, then read as a file."""
    return load_from_local(str(downloaded(filename)))


def load_from_torchvision(filename: str, map_location: Any = None) -> dict[str, Any]:
    """For MMEngine: `torchvision://resnet50` and `torchvision://ResNet50_Weights.IMAGENET1K_V1`."""
    from torchvision.models import get_model_weights, get_weight

    name = filename.partition("://")[2]
    chosen = get_weight(name) if "." in name else next(iter(get_model_weights(name)))  # the first is V1, as MMEngine's
    return load_from_http(chosen.url)


def downloaded(address: str) -> Path:
    """The file of an address in torch's cache, fetched when it is not there; the hash in its name is checked always.

    Raises:
        UserError: no hash in its name, it cannot be fetched, or it has another hash.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]
    hashed = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if hashed is None:
        raise UserError(
            f"{address} holds no hash in its name (as resnet50-0676ba61.pth does): nothing tells whether it is what "
            "was meant. Fetch it yourself, compare its sha256, and name the file instead."
        )
    if path.is_file():
        if (found := checkpoint.sha256_of(path)).startswith(hashed[1]):
            return path
        raise UserError(f"{path} is not what its name says: its sha256 is {found}. Remove it to fetch it again.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(path), hashed[1], progress=False)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{address} could not be fetched ({error}). Fetch it elsewhere and name the file "
            "(load_from=PATH, model.backbone.init_cfg.checkpoint=PATH), or start from random weights."
        ) from error
    return path


# --- plain Python -----------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """The same value as a checkpoint may hold it: numpy numbers and arrays, sets and special dicts are converted.

    Raises:
        TypeError: there is something else in it.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(plain(item) for item in value)
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if type(value) in SCALARS:
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__module__}.{type(value).__qualname__}")


def state_dict_of(module: torch.nn.Module) -> OrderedDict:
    """A module's state dict on the CPU. What lies there already is shared with the module: save it at once."""
    return OrderedDict((name, value.detach().cpu()) for name, value in module.state_dict().items())


def hub_state(hub: Any) -> dict[str, Any]:
    """MMEngine's message hub as plain lists: scalars, run-time information, which of them to keep."""
    state = hub.state_dict()
    scalars = {name: [part.tolist() for part in buffer.data] for name, buffer in state["log_scalars"].items()}
    information = {}
    for name, value in state["runtime_info"].items():
        try:
            information[name] = plain(value)
        except TypeError:  # somebody's object: not ours to keep, and it never was needed to continue
            log.info("%s is not kept in the checkpoint (a %s)", name, type(value).__name__)
    kept = {name: bool(flag) for name, flag in state["resumed_keys"].items() if name in scalars or name in information}
    return {"log_scalars": scalars, "runtime_info": information, "resumed_keys": kept}


def restore_hub(hub: Any, state: Mapping[str, Any]) -> None:
    """The reverse of `hub_state`."""
    from mmengine.logging import HistoryBuffer

    buffers = {name: HistoryBuffer(values, counts) for name, (values, counts) in state["log_scalars"].items()}
    hub.load_state_dict({**state, "log_scalars": buffers})


# --- the folder -------------------------------------------------------------------------------------------------------


def training_checkpoints(folder: Path) -> list[Path]:
    """epoch_*.pth and iter_*.pth of a folder, unordered."""
    names = (EPOCH, ITERATION)
    return [path for path in folder.glob("*.pth") if any(name.fullmatch(path.name) for name in names)]


def newest_state(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """What to continue from: the checkpoint that `last_checkpoint` names, else the newest good one (said in the log).

    Raises:
        CheckpointError: there are checkpoints and none is good.
    """
    candidates = _by_step(training_checkpoints(folder))
    named = _named(folder)
    if named is not None:
        candidates = [named, *(path for path in candidates if path != named)]
    reasons = []
    for path in candidates:
        try:
            state = read_state(path)
        except CheckpointError as error:
            log.warning("%s", error)
            reasons.append(str(error))
            continue
        if reasons:
            log.warning("falling back to %s, the newest good checkpoint", path)
        return path, state
    if reasons:
        raise CheckpointError(f"{folder} holds {len(candidates)} checkpoint(s) and none is good:\n  "
                              + "\n  ".join(reasons))  # fmt: skip
    return None


def _named(folder: Path) -> Path | None:
    """The file that last_checkpoint names: by its last part, since MMEngine writes whole paths there."""
    try:
        name = Path((folder / LAST).read_text(encoding="utf-8").strip()).name
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        log.warning("%s cannot be read (%s)", folder / LAST, error)
        return None
    if not name or not (folder / name).is_file():
        log.warning("%s names %r, which is not there", folder / LAST, name)
        return None
    return folder / name


def _by_step(paths: Iterable[Path]) -> list[Path]:
    """Newest first; those whose manifest cannot be read come last, so that their reason is told."""
    steps = {}
    for path in paths:
        try:
            steps[path] = checkpoint.manifest(path)["step"]
        except CheckpointError:
            steps[path] = -1
    return sorted(steps, key=lambda path: (steps[path], path.name), reverse=True)


def remove(paths: Sequence[Path], keep: Sequence[str] = ()) -> None:
    """Remove checkpoints with their manifests, but none that `keep` or last_checkpoint names; a failure only warns."""
    for path in paths:
        named = _named(path.parent)
        if path.name in keep or path == named:
            continue
        try:
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.json").unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s could not be removed (%s); continuing", path, error)


def point_best(target: Path) -> None:
    """Make best.pth lead to a file of its folder, in one step."""
    alias = target.with_name(BEST)
    temporary = target.with_name(f".{BEST}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    temporary.replace(alias)
