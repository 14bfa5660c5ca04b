"""The OpenCLIP teacher: frozen, with its own normalisation, and never with random weights.

N images or texts, D embedding dimension, L tokens, W width of a token's features
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from shared.checkpoint import load_into, load_weights, tensors_sha256
from shared.errors import CheckpointError, ConfigError

from .config import LOCAL_DIR, WEIGHT_SUFFIXES

log = logging.getLogger(__name__)


class Teacher:
    """A frozen open_clip model. Not a Module: it is in no optimizer, no checkpoint and no EMA.

    Attributes: mean, std (its own pixel statistics), image_size (px), embed_dim D, text_width W (of a token's state),
    scale (the logit scale, exponentiated), sha256 (of all tensors: the key of every cache and the proof that it stayed
    frozen).
    """

    def __init__(self, model: torch.nn.Module, tokenizer, name: str, device: torch.device | str = "cpu"):
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer, self.name, self.device = tokenizer, name, torch.device(device)
        self.text = getattr(model, "text", model)
        if not hasattr(self.text, "token_embedding"):
            raise ConfigError(
                f"teacher.name: {name} has a text tower without token features ({type(self.text).__name__}); "
                "choose an open_clip model with a CLIP text transformer, such as ViT-B-16"
            )
        preprocess = model.visual.preprocess_cfg
        self.mean, self.std = tuple(preprocess["mean"]), tuple(preprocess["std"])
        size = model.visual.image_size
        self.image_size = size if isinstance(size, int) else size[0]
        self.text_width = self.text.token_embedding.embedding_dim
        self.embed_dim = self.encode_texts(["a"]).shape[1]
        self.scale = float(model.logit_scale.exp())
        self.sha256 = tensors_sha256(model.state_dict())

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """(N,3,S,S) normalised with the teacher's own mean and std -> (N,D) unit vectors, fp32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            embedding = self.model.encode_image(images.to(self.device))
        return F.normalize(embedding.float(), dim=1)

    @torch.no_grad()
    def encode_texts(self, texts: list[str], batch: int = 256) -> Tensor:
        """N strings -> (N,D) unit vectors, fp32."""
        parts = [
            self.model.encode_text(self.tokenizer(texts[i : i + batch]).to(self.device))
            for i in range(0, len(texts), batch)
        ]
        return F.normalize(torch.cat(parts).float(), dim=1)

    @torch.no_grad()
    def read(self, texts: list[str], length: int = 48, batch: int = 256) -> list["CommandTokens"]:
        """N strings -> their tokens, [SOT] to [EOT], on the CPU.

        A command longer than `length` tokens is cut (with its [EOT] kept), with a warning that counts them.
        """
        commands = []
        for start in range(0, len(texts), batch):
            tokens = self.tokenizer(texts[start : start + batch])
            lengths = tokens.argmax(1) + 1  # [EOT] has the highest id
            cut = lengths > length
            if cut.any():
                log.warning("%d commands are longer than %d tokens and were cut", int(cut.sum()), length)
                tokens[cut, length - 1] = tokens[cut].max(1).values
            states = token_tower(self.text, tokens[:, :length].to(self.device)).float().cpu()
            rows = zip(tokens, states, lengths.clamp(max=length).tolist(), strict=True)
            commands += [CommandTokens(ids[:n].clone(), state[:n].clone()) for ids, state, n in rows]
        return commands


class CommandTokens(NamedTuple):
    """A command as a grounding head takes it."""

    ids: Tensor  # (L,) int64, of CLIP's tokenizer
    states: Tensor  # (L,W) float32, the frozen tower's state of each token


def token_tower(text: torch.nn.Module, tokens: Tensor) -> Tensor:
    """CLIP's text transformer without its pooling: (N,L) ids -> (N,L,W).

    The tower is causal, so the first L positions do not depend on the padding behind them.
    """
    length = tokens.shape[1]
    x = text.token_embedding(tokens) + text.positional_embedding[:length]
    mask = text.attn_mask
    x = text.transformer(x, attn_mask=None if mask is None else mask[:length, :length])
    return text.ln_final(x)


class CommandReader:
    """The frozen tower's reading of every command, made once and looked up by string.

    Computed up front in a fixed order, so that a resumed run sees the same bits as an uninterrupted one.
    """

    def __init__(self, teacher: Teacher, texts: list[str], length: int):
        unique = sorted(set(texts))
        self.table = dict(zip(unique, teacher.read(unique, length), strict=True))

    def __call__(self, text: str) -> CommandTokens:
        """A command that was announced at construction."""
        return self.table[text]

    def vocabulary(self, texts: Iterable[str]) -> Tensor:
        """(V,) int64: the distinct token ids of these commands, ascending."""
        return torch.unique(torch.cat([self.table[text].ids for text in texts]))


def load_teacher(config, device: torch.device | str = "cpu") -> Teacher:
    """The teacher that `config` (config.Teacher) names: a tag, a weights file, or `local-dir:<folder>`.

    Raises CheckpointError when the weights are missing or do not fit; random weights are never used instead.
    """
    if not config.pretrained:
        raise CheckpointError(
            f"teacher.pretrained is empty for {config.name}: name a tag (open_clip.list_pretrained()), a weights file, "
            "or local-dir:<folder with open_clip_config.json and weights>"
        )
    if config.pretrained.startswith(LOCAL_DIR):
        return _from_folder(Path(config.pretrained.removeprefix(LOCAL_DIR)), device)
    if config.name not in open_clip.list_models():
        raise ConfigError(f"teacher.name: open_clip knows no model {config.name!r}; see open_clip.list_models()")
    if Path(config.pretrained).suffix in WEIGHT_SUFFIXES:
        return _from_file(config.name, Path(config.pretrained), device)
    tags = open_clip.list_pretrained_tags_by_model(config.name)
    if config.pretrained not in tags:
        raise ConfigError(f"teacher.pretrained: {config.name} has no weights {config.pretrained!r}; it has {tags}")
    return _from_tag(config.name, config.pretrained, device)


def _from_folder(folder: Path, device) -> Teacher:
    if not (folder / "open_clip_config.json").is_file():
        raise CheckpointError(f"{folder / 'open_clip_config.json'} is missing: teacher.pretrained names a folder that "
                              "holds it beside open_clip_model.safetensors")  # fmt: skip
    name = f"local-dir:{folder}"
    try:
        model = open_clip.create_model(name, require_pretrained=True)
    except Exception as error:  # every library that open_clip reads with has its own
        for path in (path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES):
            load_weights(path)  # damaged or hostile: says so, and how
        raise CheckpointError(f"{folder}: the teacher could not be loaded: {error}") from error
    return Teacher(model, open_clip.get_tokenizer(name), folder.name, device)


def _from_file(name: str, path: Path, device) -> Teacher:
    model = open_clip.create_model(name, load_weights=False)
    state = load_weights(path)
    load_into(model, state.get("state_dict", state), source=path)
    log.warning("%s: a bare weights file carries no pixel statistics; %s's own are assumed", path, name)
    return Teacher(model, open_clip.get_tokenizer(name), name, device)


def _from_tag(name: str, tag: str, device) -> Teacher:
    try:
        model = open_clip.create_model(name, pretrained=tag, require_pretrained=True)
    except Exception as error:  # the hub raises many kinds; all mean the same to the user
        raise CheckpointError(
            f"teacher: could not get open_clip weights {name}/{tag} ({type(error).__name__}: {error}); connect to the "
            "network once, or set teacher.pretrained to a weights file or local-dir:<folder>"
        ) from error
    return Teacher(model, open_clip.get_tokenizer(name), f"{name}/{tag}", device)
