"""Grounding heads, and the model that joins an encoder to one: a command and a frame in, a box out.

Localise, then regress: the decoded [REG] query scores every cell of the fused map, and the box is the prediction of
the best cell. Regressing a box straight from [REG] stayed near 1 % AP50 in an earlier trial on another
synthetic world; it has not been compared in this one.

    B commands, F frames, L tokens, W text width, V vocabulary, C channels, d head dimension, h w cells, n = h*w
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODEL_INPUTS = ("images", "text_emb", "text_mask", "image_index", "token_ids")  # of a batch, as forward takes them

CONTEXT_LENGTH = 77  # tokens that CLIP reads at most
UNKNOWN = -1  # the id of no token

# Start of the learned gain on what comes from the frozen text tower (LayerScale, Touvron et al., 2103.17239): the
# trainable words lead at first.
TEXT_GAIN = 0.1

# Median box of Talk2Car's train split (cx, cy, w, h as shares of 1600 x 900): an untrained head predicts this box.
MEDIAN_BOX = (0.4447, 0.5733, 0.0919, 0.1333)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def sine_positions(h: int, w: int, d: int, device=None) -> Tensor:
    """2-D sine positions (h*w, d), d divisible by 4, from normalised coordinates (DETR, arXiv 2005.12872, A.4)."""
    frequencies = 2 * math.pi * 10000 ** -(torch.arange(d // 4, device=device) / (d // 4)) * 4
    y = (torch.arange(h, device=device) + 0.5)[:, None] / h * frequencies  # (h, d/4)
    x = (torch.arange(w, device=device) + 0.5)[:, None] / w * frequencies
    y = torch.cat([y.sin(), y.cos()], 1)[:, None].expand(h, w, d // 2)
    x = torch.cat([x.sin(), x.cos()], 1)[None].expand(h, w, d // 2)
    return torch.cat([y, x], 2).reshape(h * w, d)


def with_tokens(text_emb: Tensor, text_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B,D) or (B,L,W) text -> tokens (B,L,W) and mask (B,L), True where there is a token."""
    if text_emb.dim() == 2:
        text_emb = text_emb[:, None]
    if text_mask is None:
        text_mask = torch.ones(text_emb.shape[:2], dtype=torch.bool, device=text_emb.device)
    return text_emb, text_mask


def sentence_of(tokens: Tensor, mask: Tensor) -> Tensor:
    """The last token's feature (B,W): CLIP's text tower is causal, so [EOT] has read the whole command."""
    last = mask.sum(1).clamp(min=1) - 1
    return tokens[torch.arange(len(tokens), device=tokens.device), last]


class Packing:
    """Commands grouped by their frame, so that a frame's cells are read once and never copied for each command.

    pack (B,...) -> (F,M,...) with M the most commands of a frame, unpack back. Without an index (one frame a command)
    both only add or drop the M axis.
    """

    def __init__(self, image_index: Tensor | None, frames: int):
        self.index, self.frames = image_index, frames
        if image_index is not None:
            rank = F.one_hot(image_index, frames).cumsum(0)  # (B,F): commands of a frame up to this one
            self.slot = rank.gather(1, image_index[:, None]).squeeze(1) - 1
            self.width = int(rank[-1].max())

    def pack(self, x: Tensor) -> Tensor:
        if self.index is None:
            return x[:, None]
        packed = x.new_zeros(self.frames, self.width, *x.shape[1:])
        return packed.index_put((self.index, self.slot), x)

    def unpack(self, x: Tensor) -> Tensor:
        return x[:, 0] if self.index is None else x[self.index, self.slot]


class Attention(nn.Module):
    """Multi-head attention from queries (B,q,d) to a memory (B,k,d), optionally with a key mask (B,k)."""

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_query, self.to_key, self.to_value, self.out = (nn.Linear(d, d) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = None if mask is None else mask[:, None, None]
        q, k, v = self.split(self.to_query(query)), self.split(self.to_key(memory)), self.split(self.to_value(memory))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))

    def weights(self, query: Tensor, memory: Tensor) -> Tensor:
        """Attention weights averaged over heads (B,q,k), for pictures."""
        q, k = self.split(self.to_query(query)), self.split(self.to_key(memory))
        return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1).mean(1)


class DecoderLayer(nn.Module):
    """Pre-norm decoder layer: [REG] and tokens attend to each other, then to the image's cells."""

    def __init__(self, d: int, heads: int, ffn: int, dropout: float):
        super().__init__()
        self.self_attention, self.cross_attention = Attention(d, heads), Attention(d, heads)
        self.ffn = nn.Sequential(nn.Linear(d, ffn), nn.GELU(), nn.Dropout(dropout), nn.Linear(ffn, d))
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, cells: Tensor, packing: Packing, wanted: int | None = None) -> Tensor:
        """x (B,1+L,d), mask (B,1+L), cells (F,n,d) -> updated x, or its first `wanted` rows alone."""
        y = self.norms[0](x)
        x = x[:, :wanted] + self.dropout(self.self_attention(y[:, :wanted], y, mask))
        queries = packing.pack(self.norms[1](x))  # (F,M,1+L,d)
        attended = self.cross_attention(queries.flatten(1, 2), cells).unflatten(1, queries.shape[1:3])
        x = x + self.dropout(packing.unpack(attended))
        return x + self.dropout(self.ffn(self.norms[2](x)))

    @torch.no_grad()
    def attention(self, x: Tensor, cells: Tensor, packing: Packing) -> Tensor:
        """Where [REG] (x[:, 0]) looks: (B,n), rows sum to 1."""
        return packing.unpack(self.cross_attention.weights(packing.pack(self.norms[1](x[:, 0])), cells))


class Words(nn.Module):
    """A trainable vector for every token of the training commands, zeros for a token never seen there, and one for
    every place in a command.

    The frozen tower says what a word means; which words decide *here* (left, second, white) is quicker to learn from
    vectors of their own.
    """

    def __init__(self, vocabulary: Tensor, d: int):
        super().__init__()
        self.register_buffer("vocabulary", vocabulary)
        self.vectors = nn.Parameter(torch.randn(len(vocabulary), d))
        self.places = nn.Parameter(torch.randn(CONTEXT_LENGTH, d) * 0.02)

    def forward(self, token_ids: Tensor) -> Tensor:
        """(B,L) int64 -> (B,L,d)."""
        known = (token_ids[..., None] == self.vocabulary).to(self.vectors.dtype)
        return known @ self.vectors + self.places[: token_ids.shape[1]]


class TextLayer(nn.Module):
    """A trainable bidirectional layer over the frozen, causal tower's tokens."""

    def __init__(self, d: int, heads: int, ffn: int, dropout: float):
        super().__init__()
        self.attention = Attention(d, heads)
        self.ffn = nn.Sequential(nn.Linear(d, ffn), nn.GELU(), nn.Dropout(dropout), nn.Linear(ffn, d))
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norms[0](x)
        x = x + self.attention(y, y, mask)
        return x + self.ffn(self.norms[1](x))


class TransformerGroundingHead(nn.Module):
    """A transformer decoder that learns where a command should look.

    Query: a learned [REG] plus the sentence, followed by the tokens, each a trainable word vector plus the frozen
    tower's state; key/value: the cells of the fused map plus 2-D sine positions (without them there is no left and
    right). [REG] scores the cells after every layer; each cell predicts the box that it would answer with.
    """

    def __init__(
        self,
        map_dim: int,
        text_width: int,
        vocabulary: Tensor | None = None,
        dim: int = 256,
        heads: int = 8,
        ffn: int = 1024,
        layers: int = 3,
        text_layers: int = 1,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.words = Words(torch.empty(0, dtype=torch.long) if vocabulary is None else vocabulary, dim)
        self.word_in = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.text_in = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, dim))
        self.text_gain = nn.Parameter(torch.full((dim,), TEXT_GAIN))
        self.sentence_in = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, dim))
        self.reg = nn.Parameter(torch.randn(dim) * 0.02)
        self.text_layers = nn.ModuleList(TextLayer(dim, heads, ffn, dropout) for _ in range(text_layers))
        self.cell_in = nn.Linear(map_dim, dim)
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, ffn, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.score = CellScore(dim)
        self.box = CellBox(dim)

    def forward(
        self,
        feature_map: Tensor,
        text_emb: Tensor,
        text_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        token_ids: Tensor | None = None,
    ) -> dict:
        """feature_map (F,C,h,w), text_emb (B,L,W) or (B,W), text_mask (B,L), image_index (B,) in 0..F-1 or None,
        token_ids (B,L) int64 or None (no word is known then).

        Returns {boxes_cxcywh (B,4) in 0..1, score_map (B,h,w) logits, cell_boxes (B,n,4), aux: earlier layers' score
        maps, attention (B,h,w) of the last layer, for pictures (None in training)}.
        """
        h, w = feature_map.shape[-2:]
        cells = self.cell_in(feature_map.flatten(2).transpose(1, 2))
        positions = sine_positions(h, w, cells.shape[-1], cells.device).to(cells.dtype)
        placed = cells + positions
        packing = Packing(image_index, len(feature_map))
        x, mask = self._queries(*with_tokens(text_emb, text_mask), token_ids)
        keys, scores = self.score.keys(placed, positions), []
        for layer in self.layers:
            looked_from = x
            x = layer(x, mask, placed, packing, wanted=1 if layer is self.layers[-1] else None)
            scores.append(self.score(self.norm(x[:, 0]), keys, packing).unflatten(1, (h, w)))
        cell_boxes = self.box(cells, (h, w), self.norm(x[:, 0]), packing)
        best = scores[-1].flatten(1).argmax(1)
        return {
            "boxes_cxcywh": cell_boxes.gather(1, best[:, None, None].expand(-1, 1, 4)).squeeze(1),
            "score_map": scores[-1],
            "cell_boxes": cell_boxes,
            "aux": scores[:-1],
            "attention": None if self.training else layer.attention(looked_from, placed, packing).unflatten(1, (h, w)),
        }

    def _queries(self, tokens: Tensor, mask: Tensor, token_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        if token_ids is None:
            token_ids = torch.full(tokens.shape[:2], UNKNOWN, device=tokens.device)
        words = self.word_in(self.words(token_ids))
        reg = self.reg + self.text_gain * self.sentence_in(sentence_of(tokens, mask))
        x = torch.cat([reg[:, None], words + self.text_gain * self.text_in(tokens)], 1)
        mask = F.pad(mask, (1, 0), value=True)
        for layer in self.text_layers:
            x = layer(x, mask)
        return x, mask


class CellScore(nn.Module):
    """How well each cell answers the query, as the sum of three readings of [REG] and cell.

    The inner product of what [REG] asks for and what a cell offers (Vaswani et al., 1706.03762); a small network on
    both (additive attention, Bahdanau et al., 1409.0473), which can ask for two things *at once*; and the inner product
    with the bare position, so that left and right need not be learned through what stands there (content and place
    apart, as in Conditional DETR, Meng et al., 2108.06152).
    """

    def __init__(self, d: int):
        super().__init__()
        self.offer = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, d))
        self.ask = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, d))
        self.where = nn.Linear(d, d)
        self.join = Join(d, 1)

    def keys(self, cells: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """cells (F,n,d), positions (n,d) -> what forward needs of them, once for all layers."""
        return self.offer(cells), self.join.of_cell(cells), positions

    def forward(self, reg: Tensor, keys: tuple[Tensor, Tensor, Tensor], packing: Packing) -> Tensor:
        """reg (B,d), keys of the cells -> logits (B,n)."""
        offered, joined, positions = keys
        content = packing.pack(self.ask(reg)) @ offered.transpose(1, 2)
        place = self.where(reg) @ positions.T
        both = self.join(reg, joined, packing).squeeze(-1)
        scale = math.sqrt(positions.shape[-1])
        return packing.unpack(content / scale + both) + place / scale


class Join(nn.Module):
    """A hidden layer over a command and a cell, for every pair of a frame's commands and cells.

    Its first linear map is split into a part of the cell and a part of the command, so that only their sum is computed
    for each pair.
    """

    def __init__(self, d: int, out: int):
        super().__init__()
        self.of_cell, self.of_command, self.out = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, out)

    def forward(self, reg: Tensor, joined: Tensor, packing: Packing) -> Tensor:
        """reg (B,d), joined = of_cell(cells) (F,n,d) -> packed (F,M,n,out)."""
        return self.out(F.relu(packing.pack(self.of_command(reg))[:, :, None] + joined[:, None]))


class CellBox(nn.Module):
    """The box each cell would answer a command with: an offset from its centre and a size.

    Two 3x3 convolutions come first: a cell alone seldom sees where its object ends. The command has a say because a
    cell can belong to two objects, a man before a truck. The last layer starts near zero with the logits of the median
    size, so that an untrained cell predicts the median box around itself.
    """

    def __init__(self, d: int):
        super().__init__()
        self.surroundings = nn.Sequential(
            nn.Conv2d(d, d, 3, padding=1), nn.GELU(), nn.Conv2d(d, d, 3, padding=1), nn.GELU()
        )
        self.join = Join(d, 4)
        nn.init.normal_(self.join.out.weight, std=1e-3)
        with torch.no_grad():
            self.join.out.bias.copy_(torch.tensor([0.0, 0.0, logit(MEDIAN_BOX[2]), logit(MEDIAN_BOX[3])]))

    def forward(self, cells: Tensor, map_hw: tuple[int, int], reg: Tensor, packing: Packing) -> Tensor:
        """cells (F,n,d), reg (B,d) -> (B,n,4) cxcywh in 0..1; the offset moves a centre by at most half the frame."""
        around = self.surroundings(cells.transpose(1, 2).unflatten(2, map_hw)).flatten(2).transpose(1, 2)
        raw = packing.unpack(self.join(reg, self.join.of_cell(cells + around), packing)).float()
        centres = cell_centres(*map_hw, raw.device)
        return torch.cat([(centres + raw[..., :2].tanh() / 2).clamp(0, 1), raw[..., 2:].sigmoid()], -1)


def cell_centres(h: int, w: int, device=None) -> Tensor:
    """(h*w, 2) x, y in 0..1, row by row."""
    y = (torch.arange(h, device=device) + 0.5) / h
    x = (torch.arange(w, device=device) + 0.5) / w
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(h * w, 2)


class ProjectionGroundingHead(nn.Module):
    """The baseline: pooled map and sentence, concatenated, through an MLP to one box."""

    def __init__(self, map_dim: int, text_width: int, dim: int = 256, dropout: float = 0.1):
        super().__init__()
        self.text_in = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, dim))
        self.image_in = nn.Sequential(nn.LayerNorm(map_dim), nn.Linear(map_dim, dim))
        self.mlp = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 4)
        )
        nn.init.normal_(self.mlp[-1].weight, std=1e-3)
        with torch.no_grad():
            self.mlp[-1].bias.copy_(torch.tensor([logit(p) for p in MEDIAN_BOX]))

    def forward(
        self,
        feature_map: Tensor,
        text_emb: Tensor,
        text_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        token_ids: Tensor | None = None,
    ) -> dict:
        """As TransformerGroundingHead.forward; token_ids are not read; score_map, cell_boxes and attention
        are None, aux is empty."""
        sentence = self.text_in(sentence_of(*with_tokens(text_emb, text_mask)))
        image = self.image_in(feature_map.mean((2, 3)))
        image = image if image_index is None else image[image_index]
        boxes = self.mlp(torch.cat([image, sentence], 1)).float().sigmoid()
        return {"boxes_cxcywh": boxes, "score_map": None, "cell_boxes": None, "aux": [], "attention": None}


class Talk2CarModel(nn.Module):
    """The trained encoder with a grounding head. The text tower stays outside: commands arrive as its states."""

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(
        self,
        images: Tensor,
        text_emb: Tensor,
        text_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        token_ids: Tensor | None = None,
    ) -> dict:
        """images (F,3,H,W) normalised; text_emb (B,D) or (B,L,W) with text_mask (B,L) and token_ids (B,L);
        image_index (B,) says which frame a command belongs to (default: one frame a command, F = B). A frame with
        several commands is encoded once.

        Returns the head's dict: boxes_cxcywh (B,4) in 0..1, score_map (B,h,w) or None, aux, attention, cell_boxes.
        """
        if image_index is None and len(images) != len(text_emb):
            raise ValueError(f"{len(images)} images for {len(text_emb)} commands: pass image_index (B,)")
        return self.head(self.encoder.feature_map(images), text_emb, text_mask, image_index, token_ids)


def build_head(config, map_dim: int, text_width: int, vocabulary: Tensor | None = None) -> nn.Module:
    """The head that `config` (config.Head) describes; vocabulary (V,) int64: the token ids of the training commands."""
    if config.kind == "projection":
        return ProjectionGroundingHead(map_dim, text_width, config.dim, config.dropout)
    return TransformerGroundingHead(
        map_dim,
        text_width,
        vocabulary,
        config.dim,
        config.heads,
        config.ffn,
        config.layers,
        config.text_layers,
        config.dropout,
    )
