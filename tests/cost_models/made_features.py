"""Features and samples: of a real model's classes, and drawn from a fixed seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from cost_models.base import Sample
from cost_models.features import Features, loop_features
from search_space.candidates import find_classes
from search_space.liveness import MemoryModel
from search_space.space import chunk_grid
from tests.cost_models.made_rates import PLAIN
from tests.tiny import tiny_model

Truth = Callable[[Features], float]


def memory_at(length: int) -> MemoryModel:
    """The memory model of tiny GPT-2 at another length than it was captured at."""
    graph = tiny_model("gpt2", "eager").captured.graph
    return MemoryModel(graph.at(graph.bind(((1, length),))))


@cache
def real_features(length: int) -> tuple[tuple[str, Features], ...]:
    """Of all classes of tiny GPT-2 and all their chunk sizes, with the class's key."""
    memory = memory_at(length)
    ceilings = PLAIN
    return tuple(
        (item.key, loop_features(memory, item.loops[0], size, ceilings))
        for item in find_classes(memory)
        for size in chunk_grid(item.extent)
    )


def real_samples(truth: Truth, lengths: tuple[int, ...] = (24, 56)) -> list[Sample]:
    """Samples of every sixteenth class of tiny GPT-2 with log ratios from a formula."""
    found = []
    for length in lengths:
        every = real_features(length)
        kept = set(list(dict.fromkeys(key for key, _ in every))[::16])
        found += [
            Sample(features, truth(features), f"{key}@{length}", length)
            for key, features in every
            if key in kept
        ]
    return found


def noisy_passes(seed: int = 0, noise: float = 0.01) -> Truth:
    """A tenth for each doubling of the passes, and noise."""
    draw = np.random.default_rng(seed)
    return lambda one: 0.1 * math.log2(one.passes) + noise * float(draw.standard_normal())


def drawn_features(count: int, seed: int = 0) -> list[Features]:
    """Features of no model, spread so widely that every term of a formula can be told apart."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        extent = int(draw.integers(64, 4096))
        size = int(draw.integers(1, extent // 2))
        moved = 10 ** draw.uniform(6, 9)
        whole_s = 10 ** draw.uniform(-4, -2)
        chunked_s = whole_s * draw.uniform(0.8, 3)
        largest = moved * draw.uniform(0.1, 1)
        found.append(
            Features(
                chunk_size=size,
                extent=extent,
                passes=-(-extent // size),
                nodes=12,
                kernels=int(draw.integers(1, 12)),
                flops=moved * 10 ** draw.uniform(-1, 2.5),
                moved_bytes=moved,
                pass_bytes=int(draw.integers(1, 10**7)),
                body_bytes=int(draw.integers(10**7, 10**8)),
                sliced_bytes=int(draw.integers(0, 10**7)),
                whole_bytes=int(draw.integers(0, 10**7)),
                output_bytes=int(draw.integers(1, 10**7)),
                stride_bytes=int(2 ** draw.uniform(2, 14)),
                run_bytes=int(2 ** draw.uniform(2, 20)),
                rows=size,
                item_bytes=4,
                cache_bytes=2**22,
                balance=25.0,
                narrowest=float(draw.integers(0, 512)),
                largest_bytes=largest * size / extent,
                largest_whole_bytes=largest,
                cached_share=draw.uniform(0, 1),
                cached_whole_share=draw.uniform(0, 1),
                launch_s=0.2 * chunked_s,
                product_s=0.3 * chunked_s,
                memory_s=0.2 * chunked_s,
                compute_s=0.1 * chunked_s,
                store_s=0.2 * chunked_s,
                launch_whole_s=0.1 * whole_s,
                product_whole_s=0.4 * whole_s,
                roofline_whole_s=whole_s,
                roofline_chunked_s=chunked_s,
            )
        )
    return found
