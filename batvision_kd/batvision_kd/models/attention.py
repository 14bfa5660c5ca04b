"""Cross attention between the ears: each ear's map asks the other's where the same echo arrived.

Two kinds, each used in both directions (left asks right, right asks left, from the maps as they came in):

    mha        a pre-norm block per direction: LN1, multi-head attention with biases, residual, LN2, FFN C -> 4C -> C,
               residual; 12 C^2 + 13 C parameters each. Output projections start at zero: it starts as the identity.
    reference  query and key C -> C/8, value and output C -> C, one set for both directions, times a scalar gamma that
               starts at 0. Scores are divided by sqrt(C/8), the width of the keys, not by sqrt(C).

Both add fixed 2-D sine codes to what queries and keys are made of: without a code "the same time, a little later"
cannot be expressed. Scores are never materialised: `scaled_dot_product_attention` streams them. It does so only when
queries, keys and values have one width, so wide values are split into chunks of the keys' width, which is exact.

A map of N = H W tokens costs N^2 score products, so the two largest levels attend along time only, inside a row of one
frequency: both ears hear an echo within 0.73 ms at the same frequency, and that is a handful of columns.
"""

# B batch (times rows, where rows attend alone), N tokens, C channels, K heads, d width of a head; the map of an ear is
# (B,C,H,W) with H frequency and W time.

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.errors import UserError

ATTENTIONS = ("mha", "reference")
KEY_SHARE = 8  # the reference's keys have C / 8 channels
WAVELENGTH = 10_000.0  # the longest of the sine code, in tokens (Vaswani et al., arXiv 1706.03762)
HEAVY_TOKENS = 16_384  # a dense level from here on deserves a warning


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key' / sqrt(d_k)) value, without the score matrix.

    query, key (B,K,N,d_k), value (B,K,N,d_v) with d_v a multiple of d_k -> (B,K,N,d_v).
    """
    chunks = value.shape[-1] // key.shape[-1]
    if chunks == 1:
        return F.scaled_dot_product_attention(query, key, value)
    parts = value.unflatten(-1, (chunks, -1)).movedim(-2, 2)  # (B,K,chunks,N,d_k)
    shape = parts.shape
    query, key = (x.unsqueeze(2).expand(shape).flatten(1, 2) for x in (query, key))
    mixed = F.scaled_dot_product_attention(query, key, parts.flatten(1, 2))
    return mixed.unflatten(1, shape[1:3]).movedim(2, -2).flatten(-2)


def sine_code(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """(H,W,C) fixed position codes, C divisible by 4: the first half of the channels tells the row, the second half
    the column.

    Per axis: sin and cos of the position over wavelengths from 2 pi to 2 pi 10,000 tokens.
    """
    rows, columns = (_axis_code(n, channels // 2, device) for n in (height, width))
    return torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)


def _axis_code(length: int, channels: int, device: torch.device | None) -> Tensor:
    steps = torch.arange(0, channels, 2, device=device, dtype=torch.float32)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] / WAVELENGTH ** (steps / channels)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class EarBlock(nn.Module):
    """One direction of `mha`: the tokens of one ear, told what the other ear heard."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        self.ffn = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        for last in (self.out, self.ffn[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, own: Tensor, other: Tensor, code: Tensor) -> Tensor:
        """own, other (B,N,C), code broadcast to them -> own, updated."""
        asking, heard = self.norm1(own), self.norm1(other)
        parts = self.query(asking + code), self.key(heard + code), self.value(heard)
        mixed = attend(*(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts))
        own = own + self.out(mixed.transpose(1, 2).flatten(-2))
        return own + self.ffn(self.norm2(own))


class MultiHeadPair(nn.Module):
    """`mha`: a block for each direction."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        if channels % heads or channels % 4:
            raise UserError(
                f"attention over {channels} channels with {heads} heads: the channels must be divisible by the "
                "heads and by 4; change base_channels or attention_heads"
            )
        self.left, self.right = EarBlock(channels, heads), EarBlock(channels, heads)

    def forward(self, left: Tensor, right: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        left, right = left.contiguous(), right.contiguous()  # a copy here, or one in each layer
        return self.left(left, right, code), self.right(right, left, code)


class ReferencePair(nn.Module):
    """`reference`: one narrow attention for both directions, gated by gamma."""

    def __init__(self, channels: int):
        super().__init__()
        if channels % KEY_SHARE:
            raise UserError(
                f"reference attention over {channels} channels: they must be divisible by {KEY_SHARE}; use "
                f"base_channels divisible by {KEY_SHARE}, or deeper attention_levels"
            )
        self.query, self.key = (nn.Linear(channels, channels // KEY_SHARE) for _ in range(2))
        self.value, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, left: Tensor, right: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        placed = left + code, right + code
        queries, keys = ([layer(x) for x in placed] for layer in (self.query, self.key))
        return (
            left + self._heard(queries[0], keys[1], self.value(right)),
            right + self._heard(queries[1], keys[0], self.value(left)),
        )

    def _heard(self, *parts: Tensor) -> Tensor:
        """gamma out(attention); gamma goes into the weights, which are smaller than the tokens."""
        mixed = attend(*(part.unsqueeze(1) for part in parts)).squeeze(1)
        return F.linear(mixed, self.gamma * self.out.weight, self.gamma * self.out.bias)


class CrossAttention(nn.Module):
    """One level: both ears' maps in, both maps out, of the same shapes."""

    def __init__(self, channels: int, kind: str, *, heads: int, dense: bool):
        super().__init__()
        self.dense = dense
        self.pair = MultiHeadPair(channels, heads) if kind == "mha" else ReferencePair(channels)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """left, right (B,C,H,W): every token asks every other (dense), or those of its own frequency row."""
        shape = left.shape
        code = sine_code(*shape[-2:], shape[1], left.device).to(left.dtype)
        if self.dense:
            asked = self.pair(*(x.flatten(2).transpose(1, 2) for x in (left, right)), code.flatten(0, 1))
            return tuple(x.transpose(1, 2).unflatten(2, shape[-2:]) for x in asked)
        rows = code.repeat(shape[0], 1, 1)  # (B H, W, C)
        asked = self.pair(*(x.permute(0, 2, 3, 1).flatten(0, 1) for x in (left, right)), rows)
        return tuple(x.unflatten(0, (shape[0], shape[2])).permute(0, 3, 1, 2) for x in asked)


def warn_if_heavy(level: int, dense_levels: Sequence[int], size_hw: Sequence[int]) -> None:
    """Say what a dense attention over a large map means, in GiB of scores (which this code does not store) and work."""
    tokens = (size_hw[0] >> level - 1) * (size_hw[1] >> level - 1)
    if level in dense_levels and tokens >= HEAVY_TOKENS:
        gib = tokens**2 * 4 / 2**30
        warnings.warn(
            f"dense attention at x{level} over {tokens:,} tokens: a materialised score matrix would be {gib:.3g} GiB "
            f"per head and sample; it is streamed, but each of its {tokens**2:.2g} scores is still computed. Leave "
            f"{level} out of dense_levels to attend along time only",
            stacklevel=2,
        )
