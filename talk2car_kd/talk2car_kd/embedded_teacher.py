"""The embedded world's teacher: a small open_clip model trained there on region captions, then frozen and distilled.

It stands in for OpenCLIP where no pretrained weights are at hand; it knows the embedded world and nothing else.
"""

import json
from pathlib import Path

import open_clip
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from shared.checkpoint import write_atomic

from .images import IMAGENET_MEAN, IMAGENET_STD
from .losses import LOG_SCALE_MAX, clip_loss_unique
from .teacher import token_tower

CONFIG_NAME, WEIGHTS_NAME = "open_clip_config.json", "open_clip_model.safetensors"


def model_config(config) -> dict:
    """open_clip's model_cfg for a `config` (config.TeacherTraining): a timm image tower, CLIP's text transformer."""
    return {
        "embed_dim": config.embed_dim,
        "vision_cfg": {
            "timm_model_name": config.image_tower,
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": config.image_size,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": config.text_width,
            "heads": config.text_heads,
            "layers": config.text_layers,
        },
    }


def new_model(config) -> torch.nn.Module:
    """A randomly initialised open_clip model: the only place where that is meant."""
    return open_clip.model.CLIP(**model_config(config))


def contrastive_terms(model: torch.nn.Module, images: Tensor, tokens: Tensor, text_ids: Tensor) -> dict[str, Tensor]:
    """CLIP's objective over the batch's unique texts.

    images (N,3,S,S); tokens (T,77) of all texts; text_ids (N,) says which text belongs to an image -> {clip: scalar}.
    """
    unique, row = torch.unique(text_ids, return_inverse=True)
    image = F.normalize(model.encode_image(images).float(), dim=1)
    text = F.normalize(encode_short(model, tokens[unique]).float(), dim=1)[row]
    return {"clip": clip_loss_unique(model.logit_scale.clamp(max=LOG_SCALE_MAX).exp() * image @ text.T, text_ids)}


def encode_short(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """model.encode_text without the padding: captions are short, and the tower is causal, so nothing else changes."""
    end = tokens.argmax(1)  # [EOT] has the highest id
    hidden = token_tower(model, tokens[:, : int(end.max()) + 1])
    return hidden[torch.arange(len(tokens)), end] @ model.text_projection


def save_folder(model: torch.nn.Module, config, folder: Path) -> None:
    """Write the folder that `teacher.pretrained: local-dir:<folder>` loads; the config, written last, completes it."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(folder / WEIGHTS_NAME, safetensors.torch.save(weights))
    preprocess = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD), "interpolation": "bicubic"}
    text = json.dumps({"model_cfg": model_config(config), "preprocess_cfg": preprocess}, indent=2)
    write_atomic(folder / CONFIG_NAME, text)


def is_complete(folder: Path) -> bool:
    return (folder / CONFIG_NAME).is_file()


def copy_folder(source: Path, target: Path) -> None:
    """Copy what save_folder wrote, in its order."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_NAME, CONFIG_NAME):
        write_atomic(target / name, (source / name).read_bytes())
