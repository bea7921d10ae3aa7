"""Bytes that attention allocates beside its output.

A fused CPU kernel works through blocks of scores, as in ATen's ``FlashAttentionKernel.cpp``: query
blocks of 256, 64 or 32 rows by length, key blocks of 512. What no fused kernel takes is computed op
by op, with all scores stored. On CUDA the figures are upper bounds.

Processors with matrix units pack keys and values of half precision for them, others do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from search_space.graph import ITEM_BYTES
from search_space.kernel_call import Call, Operand, Workspace, cpu_threads
from search_space.layout import Layout
from search_space.processor import HalfKernels, half_kernels
from search_space.split_keys import split_bytes

CAUSAL_ROWS = 256
"""Queries that one call of the kernel gets where causal attention runs for a part of the queries.

Fewer, and less is computed above the diagonal; below 192, the kernel takes blocks of 32 rows, which
costs more than it saves."""

_KEY_BLOCK = 512
_HALF = frozenset({"bfloat16", "float16"})
_PACKED_FROM = {"bfloat16": 64, "float16": 16}
"""Rows and keys from which on a kernel may pack. Whether it does depends on the threads too, so
that what it takes is an upper bound."""


@dataclass(frozen=True, slots=True)
class _Attention:
    """Attention about to run: its tensors, and what its memory depends on beside them."""

    query: Operand
    key: Operand
    value: Operand
    mask: Operand | None
    is_causal: bool
    enable_gqa: bool
    device: str
    batch: tuple[int, ...]
    packs: bool

    @property
    def rows(self) -> int:
        return self.query.layout.shape[-2]

    @property
    def keys(self) -> int:
        return self.key.layout.shape[-2]

    @property
    def head(self) -> int:
        return self.query.layout.shape[-1]

    @property
    def width(self) -> int:
        return self.value.layout.shape[-1]

    @property
    def heads(self) -> int:
        """Query heads in all batches."""
        return prod(self.batch)

    @property
    def item(self) -> int:
        return ITEM_BYTES[self.query.dtype]

    @property
    def exact_item(self) -> int:
        """Bytes of a number that the kernels compute with: half precision becomes float32."""
        return max(self.item, 4)

    @property
    def output_bytes(self) -> int:
        return self.heads * self.rows * self.width * self.item


def _of_call(call: Call, packs: bool | None) -> _Attention:
    query, key, value = call.operands[:3]
    mask = call.operands[3] if len(call.operands) > 3 else None
    if packs is None:
        packs = query.dtype in _HALF and HalfKernels.TILES in half_kernels(query.dtype)
    return _Attention(
        query,
        key,
        value,
        mask,
        call.argument(5, "is_causal", False) is True,
        call.argument(7, "enable_gqa", False) is True,
        call.device,
        call.shape[:-2],
        packs,
    )


def attention_bytes(call: Call, *, packs: bool | None = None) -> int:
    """What attention allocates beside its output.

    Args:
        packs: whether half precision is packed; None for what this machine's processor does.
    """
    return _bytes(_of_call(call, packs))


def _bytes(made: _Attention) -> int:
    if not _is_fused(made):
        return _unfused(made)
    return _fused_cpu(made) if made.device.startswith("cpu") else _fused_cuda(made)


def _is_fused(made: _Attention) -> bool:
    """Whether a fused kernel takes the call; where none does, all scores are stored."""
    operands = (made.query, made.key, made.value)
    if any(len(one.layout.shape) != 4 for one in operands):
        return False
    if any(one.layout.strides[-1] != 1 and one.layout.shape[-1] > 1 for one in operands):
        return False
    if made.mask is not None and len(made.mask.layout.shape) not in (2, 4):
        return False
    (batch, heads), (key_batch, groups) = (one.layout.shape[:2] for one in operands[:2])
    if key_batch != batch or made.value.layout.shape[:2] != (key_batch, groups):
        return False
    # several groups that are fewer than the heads are only legal where grouping is asked for
    if groups != heads and not (made.enable_gqa or groups > 1):
        return False
    if made.device.startswith("cpu"):
        # (nor with a mask that may ask for a gradient)
        return made.head == made.width and not (made.mask and made.mask.is_parameter)
    if groups != heads and made.item != 2:
        return False
    aligned = 4 if made.item == 4 else 8
    return made.head % aligned == 0 and made.width % aligned == 0 and made.item <= 4


def _fused_cpu(made: _Attention) -> int:
    """The sums of exponentials, a converted mask, blocks of scores per thread, and packed keys and
    values where the kernel wants half precision so."""
    item, rows, keys = made.exact_item, made.rows, made.keys
    block = min(256 if rows >= 768 else 64 if rows >= 192 else 32, rows)
    key_block = min(_KEY_BLOCK, keys)
    per_thread = item * (block * key_block + 2 * block + block * made.head)
    packed = 0
    least = _PACKED_FROM.get(made.query.dtype)
    if made.packs and least is not None and min(rows, keys) >= least:
        groups = prod(made.key.layout.shape[:-2])
        packed = made.item * groups * (_even(made.head) * keys + made.head * _even(keys))
        per_thread += made.item * (key_block * made.head + block * _even(key_block))
        per_thread += made.item * block * _even(made.head) if made.head % 2 else 0
    elif made.query.dtype in _HALF:
        per_thread += made.item * block * key_block
    sums = item * made.heads * rows
    return sums + _converted_mask(made) + per_thread * cpu_threads() + packed


def _even(size: int) -> int:
    return size + size % 2


def _converted_mask(made: _Attention) -> int:
    """A mask as numbers, or with its last dimension dense."""
    if made.mask is None:
        return 0
    layout = made.mask.layout
    if made.mask.dtype == "bool":
        return layout.numel * made.item
    scattered = layout.strides[-1] not in (0, 1) and layout.shape[-1] > 1
    return layout.numel * ITEM_BYTES[made.mask.dtype] if scattered else 0


def _unfused(made: _Attention) -> int:
    """Attention op by op, half precision in float32.

    Throughout, alive are a scaled copy of the query and what was converted. To them come, in the
    softmax, the scores and their softmax, and a bool for each score and for each row (is all of it
    masked?), while the output is not there yet; in the last product, one of the two and copies of
    its arguments (an upper bound, reached only where keys are fewer than features).
    """
    item, scores = made.exact_item, made.heads * made.rows * made.keys
    throughout = made.query.layout.numel * item
    sources = (made.key, made.value)
    if made.query.dtype in _HALF:
        throughout += sum(one.layout.numel for one in (made.query, *sources)) * item
    repeated = made.heads * made.keys * (made.head + made.width) * item
    if made.enable_gqa and made.key.layout.shape[-3] != made.batch[-1]:
        throughout += repeated
    softmax = 2 * scores * item + scores + made.heads * made.rows + item
    if made.mask is not None and made.mask.dtype == "bool":
        softmax += made.mask.layout.numel * made.item
    if made.is_causal:
        softmax += made.rows * made.keys * item
    product = scores * item + repeated + made.heads * made.rows * made.width * item
    product += sum(one.layout.numel for one in sources) * item + made.output_bytes
    return throughout + max(softmax - made.output_bytes, product, 0)


def _fused_cuda(made: _Attention, *, fewer_keys: bool = False) -> int:
    """An upper bound for the fused CUDA kernels: logsumexp; in half precision what few queries take
    whose keys are split; the mask converted to the query's dtype and padded to the alignment that
    the memory-efficient kernel wants."""
    extra = 4 * made.heads * made.rows
    if made.mask is None:
        if made.query.dtype in _HALF:
            extra += split_bytes(
                made.heads, made.rows, made.keys, made.head, fewer_keys=fewer_keys
            )
        return extra
    layout, keys = made.mask.layout, made.mask.layout.shape[-1]
    if made.mask.dtype == "bool":
        extra += layout.numel * made.item
    if any(stride % 16 for stride in layout.strides[:-1]) or layout.strides[-1] != 1:
        extra += layout.numel // max(keys, 1) * (-(-keys // 16) * 16) * made.item
    return extra


def causal_part_bytes(call: Call, *, packs: bool | None = None) -> int:
    """:func:`search_space.causal_attention.causal_attention`, wherever its queries start: keys are
    counted whole, as the last part sees them.

    Beside a call of the kernel there is the mask, and where there are several calls, the output of
    each before it is copied.
    """
    made = _of_call(replace(call, args=()), packs)
    block = min(made.rows, CAUSAL_ROWS)
    first = replace(made, mask=None, is_causal=True, key=_cut(made.key, made.rows),
                    value=_cut(made.value, made.rows))  # fmt: skip
    if not made.device.startswith("cpu") and _is_fused(first):
        return max(_bytes(first), _fused_cuda(replace(made, mask=None), fewer_keys=True))
    mask = Operand(3, Layout((block, made.keys), (made.keys, 1)), made.query.dtype)
    most = _bytes(first)
    for start in range(0, made.rows, block):
        rows = min(block, made.rows - start)
        seen = made.keys - made.rows + start + rows
        one = replace(made, query=_cut(made.query, rows), key=_cut(made.key, seen),
                      value=_cut(made.value, seen), mask=mask)  # fmt: skip
        inside, beside = _bytes(one), 0
        if block < made.rows:
            beside = one.output_bytes
        if block < made.rows and start == 0:  # the whole output is there once the first block's is
            inside = max(inside - made.output_bytes, 0)
        most = max(most, mask.nbytes + inside + beside)
    return most


def _cut(operand: Operand, count: int) -> Operand:
    """The operand's first ``count`` positions."""
    shape = operand.layout.shape
    cut = (*shape[:-2], min(count, shape[-2]), shape[-1])
    return replace(operand, layout=replace(operand.layout, shape=cut))


ATTENTION_WORKSPACES: Mapping[str, Workspace] = {
    "aten.scaled_dot_product_attention": attention_bytes,
    "autochunk.causal_attention": causal_part_bytes,
}
