"""Qwen3 for inference: rows of many requests, at any position of theirs, share one pass.

Source: arXiv 2505.09388; parameter names are those of `transformers`' `Qwen3Model`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nemo_lite.salm.config import Qwen3Config
from nemo_lite.salm.kv_cache import KvCache


@dataclass(frozen=True, slots=True)
class Prefill:
    """The next rows of one request, to be read at once."""

    slot: int
    start: int
    """Position of the first row: rows of this slot that earlier passes have read."""
    count: int


class RmsNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) → same."""
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys and rotary positions."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = config.heads, config.kv_heads, config.head_size
        width, queries = config.width, config.heads * config.head_size
        keys = config.kv_heads * config.head_size
        self.q_proj = nn.Linear(width, queries, bias=False)
        self.k_proj = nn.Linear(width, keys, bias=False)
        self.v_proj = nn.Linear(width, keys, bias=False)
        self.o_proj = nn.Linear(queries, width, bias=False)
        self.q_norm = RmsNorm(config.head_size, config.norm_eps)
        self.k_norm = RmsNorm(config.head_size, config.norm_eps)

    def forward(self, x: Tensor, plan: "Plan", keys: Tensor, values: Tensor) -> Tensor:
        """Attend; writes the rows' keys and values into the cache first.

        Args:
            x: (N, width), the rows of `plan` in its order.
            plan: whose rows these are.
            keys: (S, KV, L, D) of this layer, changed in place; `values` likewise.
        """
        q = plan.rotate(self.q_norm(self.q_proj(x).unflatten(1, (self.heads, self.head_size))))
        k = plan.rotate(self.k_norm(self.k_proj(x).unflatten(1, (self.kv_heads, self.head_size))))
        v = self.v_proj(x).unflatten(1, (self.kv_heads, self.head_size))
        keys[plan.slots, :, plan.positions] = k
        values[plan.slots, :, plan.positions] = v
        pieces: list[Tensor] = []
        for part in plan.parts:
            cached = keys[part.slots, :, : part.length], values[part.slots, :, : part.length]
            pieces.append(_attend(q[part.rows].unflatten(0, part.shape), *cached, part.visible))
        return self.o_proj(torch.cat(pieces) if len(pieces) > 1 else pieces[0])


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.ff_size, bias=False)
        self.up_proj = nn.Linear(config.width, config.ff_size, bias=False)
        self.down_proj = nn.Linear(config.ff_size, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width) → same."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Pre-norm: attention, then the feed-forward part, each added to its input."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)
        self.input_layernorm = RmsNorm(config.width, config.norm_eps)
        self.post_attention_layernorm = RmsNorm(config.width, config.norm_eps)

    def forward(self, x: Tensor, plan: "Plan", keys: Tensor, values: Tensor) -> Tensor:
        """(N, width) → same."""
        x = x + self.self_attn(self.input_layernorm(x), plan, keys, values)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen3(nn.Module):
    """The language model without its embedding, which a Canary-Qwen checkpoint keeps outside."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self._layers = [Layer(config) for _ in range(config.layers)]
        self.layers = nn.ModuleList(self._layers)
        self.norm = RmsNorm(config.width, config.norm_eps)

    def forward(self, x: Tensor, plan: "Plan", cache: KvCache) -> Tensor:
        """Read rows of several requests and remember them in the cache.

        Args:
            x: (N, width), embedded tokens or audio frames: one row per slot 0..B-1 first, then
                the rows of each prefill.
            plan: whose rows these are, and where.
            cache: changed in place.

        Returns:
            (N, width): what the head makes scores for the rows' next tokens from.
        """
        for index, layer in enumerate(self._layers):
            x = layer(x, plan, cache.keys[index], cache.values[index])
        return self.norm(x)


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows whose queries share a shape: those that decode, or one prefill."""

    rows: slice
    shape: tuple[int, int]
    slots: slice
    length: int
    visible: Tensor
    """(B, 1, n, length) bool."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the rows of one pass belong; the same for every layer."""

    slots: Tensor
    positions: Tensor
    cosine: Tensor
    sine: Tensor
    parts: tuple[_Part, ...]

    def rotate(self, x: Tensor) -> Tensor:
        """Rotary positions of (N, H, D); source: arXiv 2104.09864."""
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
        return x * self.cosine[:, None] + turned * self.sine[:, None]


def make_plan(
    config: Qwen3Config,
    cache: KvCache,
    *,
    lengths: Tensor | None = None,
    prefills: Sequence[Prefill] = (),
    reach: int | None = None,
) -> Plan:
    """Lay out one pass.

    Args:
        config: of the model.
        cache: of the requests.
        lengths: (B,) int64, positions taken per slot 0..B-1, each of which decodes one row. An
            idle slot has `cache.length`: its row is written to a place that nobody reads.
        prefills: of other slots; their rows follow those that decode.
        reach: positions that decoding rows may see, at least max(lengths) + 1 of those that are
            not idle; None = all.
    """
    device = cache.keys.device
    slots: list[Tensor] = []
    positions: list[Tensor] = []
    parts: list[_Part] = []
    at = 0
    if lengths is not None:
        at, reach = len(lengths), cache.length if reach is None else reach
        slots.append(torch.arange(at, device=device))
        positions.append(lengths)
        visible = torch.arange(reach, device=device) <= lengths[:, None]
        parts.append(_Part(slice(0, at), (at, 1), slice(0, at), reach, visible[:, None, None]))
    for prefill in prefills:
        rows, end = torch.arange(prefill.count, device=device), prefill.start + prefill.count
        slots.append(torch.full_like(rows, prefill.slot))
        positions.append(prefill.start + rows)
        visible = torch.arange(end, device=device) <= (prefill.start + rows)[:, None]
        where = slice(at, at + prefill.count), (1, prefill.count)
        slot = slice(prefill.slot, prefill.slot + 1)
        parts.append(_Part(*where, slot, end, visible[None, None]))
        at += prefill.count
    place = torch.cat(positions)
    frequencies = config.rope_theta ** (
        -torch.arange(0, config.head_size, 2, device=device, dtype=torch.float32) / config.head_size
    )
    angles = (place[:, None] * frequencies).repeat(1, 2)
    dtype = cache.keys.dtype
    cosine, sine = angles.cos().to(dtype), angles.sin().to(dtype)
    return Plan(torch.cat(slots), place, cosine, sine, tuple(parts))


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """(B, n, H, D) over (B, KV, L, D) → (B n, H D).

    The heads of one group become rows of one query matrix: no key is repeated in memory.
    """
    batch, rows, heads, size = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    q = q.view(batch, rows, kv_heads, group, size).permute(0, 2, 3, 1, 4).flatten(2, 3)
    mask = visible.expand(batch, group, rows, -1).flatten(1, 2)[:, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    out = out.unflatten(2, (group, rows)).permute(0, 3, 1, 2, 4)
    return out.reshape(batch * rows, heads * size)
