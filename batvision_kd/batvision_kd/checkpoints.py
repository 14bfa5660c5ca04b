"""Trained models on disk: what stands in them, and using one again only for what it was trained for.

    checkpoints/<experiment>/best_model.pth    bare state dict of the judged model, for the factory's model
    checkpoints/<experiment>/epoch_0002.pth    everything that training needs to continue

Both have a manifest (`<file>.json`) whose `extra` is the model's card: kind, arguments of the factory, spectrogram,
image size, greatest depth, epoch, validation scores. Our loader takes both files and requires the manifest, since
weights alone do not say what they expect to hear.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from shared import checkpoint
from shared.errors import CheckpointError

from .config import Settings
from .models import create_binaural_attention_model, create_rgb_depth_model

BEST = "best_model.pth"
STUDENT_PREFIX = "student."  # in the states of a distillation, beside the projectors
FACTORIES = {"rgb": create_rgb_depth_model, "audio": create_binaural_attention_model,
             "distillation": create_binaural_attention_model}  # fmt: skip


def epoch_file(epoch: int) -> str:
    """Name of the state after so many epochs."""
    return f"epoch_{epoch:04d}.pth"


def build_model(settings: Settings, in_channels: int) -> nn.Module:
    """The untrained model of the settings. in_channels: of the spectrogram (2 and more; not asked for RGB)."""
    model, size = settings.model, tuple(settings.data.image_size)
    common = {"base_channels": model.base_channels, "bilinear": model.bilinear, "output_size": size,
              "max_depth": settings.data.depth_limit_m, "head": model.head}  # fmt: skip
    if settings.kind == "rgb":
        return create_rgb_depth_model(**common)
    return create_binaural_attention_model(
        **common,
        attention_levels=model.attention_levels,
        attention=model.attention,
        shared_encoder=model.shared_encoder,
        in_channels=in_channels,
    )


def card(model: nn.Module, settings: Settings, spectrogram: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What a manifest says of a model: enough to build it again and to refuse other data (JSON data)."""
    arguments = {name: list(v) if isinstance(v, tuple) else v for name, v in model.arguments().items()}
    return {
        "kind": settings.kind,
        "model": arguments,
        "spectrogram": dict(spectrogram),
        "image_size": list(settings.data.image_size),
        "base_channels": settings.model.base_channels,
        "max_depth_m": settings.data.depth_limit_m,
        "dataset": settings.data.dataset,
        **more,
    }


def save_best(path: Path, weights: Mapping[str, Tensor], settings: Settings, card: Mapping, *, step: int) -> Path:
    """Write best_model.pth: the bare state dict, its card and configuration in the manifest beside it."""
    config = settings.model_dump(mode="json")
    return checkpoint.save(path, weights, step=step, config=config, pointers=(), extra=dict(card))


def load_model(
    path: Path | str,
    *,
    kind: str | tuple[str, ...] | None = None,
    expect: Mapping[str, Any] | None = None,
    map_location: Any = "cpu",
) -> tuple[nn.Module, dict[str, Any]]:
    """The trained model of best_model.pth or epoch_*.pth in eval mode, without gradients, and its card.

    Args:
        kind: the kind, or kinds, that will do: rgb, audio, distillation.
        expect: entries of the card that must have these values, e.g. {"base_channels": 16, "max_depth_m": 30.0}.

    Raises:
        CheckpointError: missing, damaged, without a manifest of ours, of another kind, untrained, or made for other
            data or another network; both values are named.
    """
    path = Path(path)
    state = checkpoint.load(path, map_location=map_location)
    found = _card_of(path)
    _check_kind(path, found, kind)
    _check_expected(path, found, expect or {})
    weights = model_weights(state)
    if not _is_trained(weights):
        raise CheckpointError(f"{path} holds an untrained model (no batch has passed through it): train it first")
    model = FACTORIES[found["kind"]](**_arguments(found["model"]))
    checkpoint.load_into(model.to(map_location), weights, source=path)
    return model.eval().requires_grad_(False), found


def model_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's own weights in the state of either file; of a moving average, where there is one."""
    if "position" in state:
        state = state["ema"]["shadow"] if state.get("ema") else state["model"]
    student = {name.removeprefix(STUDENT_PREFIX): v for name, v in state.items() if name.startswith(STUDENT_PREFIX)}
    return student or dict(state)


def _card_of(path: Path) -> dict[str, Any]:
    found = checkpoint.manifest(path).get("extra") or {}
    if not {"kind", "model", "spectrogram"} <= found.keys():
        raise CheckpointError(
            f"{path} has a manifest without a model's card: it was not written by the training scripts here. Give "
            "best_model.pth or epoch_*.pth of an experiment."
        )
    return found


def _check_kind(path: Path, found: Mapping[str, Any], kind: str | tuple[str, ...] | None) -> None:
    wanted = (kind,) if isinstance(kind, str) else kind
    if wanted and found["kind"] not in wanted:
        raise CheckpointError(
            f"{path} holds a model of kind {found['kind']}, not {' or '.join(wanted)}: give another file"
        )


def _check_expected(path: Path, found: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in expect.items()}
    wrong = [f"{name} is {found.get(name)} there and {value} here" for name, value in plain.items()
             if found.get(name) != value]  # fmt: skip
    if wrong:
        raise CheckpointError(
            f"{path} was made for something else: {'; '.join(wrong)}. Give the same settings here, or another "
            "checkpoint."
        )


def _is_trained(weights: Mapping[str, Tensor]) -> bool:
    counts = [value for name, value in weights.items() if name.endswith("num_batches_tracked")]
    return any(int(count) > 0 for count in counts)


def _arguments(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
