"""What is told of a way's kernels; the profiles themselves need a GPU."""

from __future__ import annotations

from experiments.device_kernels import table


def test_the_longest_kernels_are_listed_under_the_sum_of_all() -> None:
    rows = [
        {"kernel": "gemm", "ms": 2.0, "launches": 4.0},
        {"kernel": "softmax", "ms": 1.5, "launches": 2.0},
        {"kernel": "copy", "ms": 0.25, "launches": 1.0},
    ]
    title, *lines = table("eager", rows, top=2).splitlines()
    assert title == "## eager: 3.75 ms in kernels, 7 launches"
    assert [line.split() for line in lines] == [
        ["2.000", "ms", "4", "gemm"], ["1.500", "ms", "2", "softmax"],
    ]  # fmt: skip
