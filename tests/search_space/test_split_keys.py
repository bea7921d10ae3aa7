"""Flash attention's split keys: as the device was seen to do it."""

from __future__ import annotations

import pytest

from search_space import split_keys
from search_space.split_keys import parts, split_bytes

MIB = 2**20


def test_a_chunk_of_1024_queries_is_split_as_on_an_h200(monkeypatch: pytest.MonkeyPatch) -> None:
    # 12 heads of 64, 8192 keys: a plan whose other tensors take 49.5 MiB peaked at 61.734 MiB there
    monkeypatch.setattr(split_keys, "multiprocessors", lambda: (132,))
    logsumexp = 4 * 12 * 1024
    taken = split_bytes(12, 1024, 8192, 64, fewer_keys=False) + logsumexp
    assert 49.5 + taken / MIB == pytest.approx(61.734, abs=1e-3)


def test_queries_that_fill_the_device_are_not_split() -> None:
    assert parts(212, 32, 132) == 1
    assert parts(211, 32, 132) > 1
    assert split_bytes(12, 8192, 8192, 64, fewer_keys=True) == 0


def test_one_block_of_keys_cannot_be_split() -> None:
    assert parts(1, 1, 132) == 1


def test_fewer_keys_are_bounded_too() -> None:
    for keys in range(256, 8193, 256):
        whole = split_bytes(12, 512, 8192, 64, fewer_keys=True)
        assert split_bytes(12, 512, keys, 64, fewer_keys=False) <= whole
