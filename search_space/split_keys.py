"""How CUDA's flash attention shares few queries' keys among its processors, and what that takes.

Where the blocks of queries do not fill the device, each block's keys are split; every part writes a
result in float32, and these are joined. The number of parts follows ``num_splits_heuristic`` and
``set_params_splitkv`` of flash attention 2 (ATen's ``flash_api.cpp``).
"""

from __future__ import annotations

from math import ceil

from search_space.cuda_device import multiprocessors

_MOST_PARTS = 128
_QUERY_BLOCK = 64


def parts(blocks: int, key_blocks: int, processors: int) -> int:
    """In how many parts the keys are split.

    Args:
        blocks: of queries, in all heads and batches.
        key_blocks: of keys.
        processors: the device's multiprocessors; each runs two blocks at a time.
    """
    slots = 2 * processors
    if blocks >= 0.8 * slots:
        return 1
    shares: dict[int, float] = {}
    for count in range(1, min(_MOST_PARTS, slots, key_blocks) + 1):
        # a part more must leave fewer blocks of keys to each
        if count == 1 or ceil(key_blocks / count) != ceil(key_blocks / (count - 1)):
            waves = blocks * count / slots
            shares[count] = waves / ceil(waves)
    best = max(shares.values())
    return next(count for count, share in shares.items() if share >= 0.85 * best)


def split_bytes(heads: int, rows: int, keys: int, head: int, *, fewer_keys: bool) -> int:
    """Bytes of the parts' results and of their sums, in float32; 0 where nothing is split.

    Args:
        heads: query heads in all batches.
        rows: queries of each.
        keys: of each.
        head: features of a head.
        fewer_keys: whether calls with fewer keys count too; the most that any takes.
    """
    key_block = 256 if head <= 64 else 128 if head <= 128 else 64
    blocks, key_blocks = heads * ceil(rows / _QUERY_BLOCK), ceil(keys / key_block)
    most = max(
        parts(blocks, count, processors)
        for processors in multiprocessors()
        for count in (range(1, key_blocks + 1) if fewer_keys else (key_blocks,))
    )
    if most == 1:
        return 0
    step = 32 if head <= 128 else 64
    return 4 * most * heads * rows * (ceil(head / step) * step + 1)
