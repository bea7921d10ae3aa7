"""What all tests share: one thread, and tiny models that are captured once."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from itertools import count

# Kernels' buffers are counted per thread, and the count is read from here. Tiny kernels on two
# threads of a busy machine wait for each other: 60 times slower than on one.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from tests.tiny import Tiny, tiny_model


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _traces() -> None:
    """The exporter writes thousands of records of a capture for a log that nobody reads here, and
    which would be kept for each test's report."""
    logging.getLogger("torch.__trace").disabled = True


_modules = count()


@pytest.fixture(scope="module", autouse=True)
def _garbage() -> None:
    """Every measured peak is preceded by a full collection, which takes seconds with the heap of a
    long session: what stands when a module begins is looked at once, not once a test, and all that
    stood before only now and then."""
    if next(_modules) % 8 == 0:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Tiny]:
    """Tiny models by name and attention, each captured on first use: ``tiny("gpt2", "sdpa")``."""
    return tiny_model


@pytest.fixture(scope="session")
def tiny_gpt2() -> Tiny:
    """GPT-2 with eager attention: 2 layers, width 32, 4 heads, 14 tokens."""
    return tiny_model("gpt2", "eager")


@pytest.fixture(scope="session")
def tiny_gpt2_sdpa() -> Tiny:
    """The same GPT-2 with fused attention."""
    return tiny_model("gpt2", "sdpa")


@pytest.fixture(scope="session")
def tiny_vit() -> Tiny:
    """ViT with eager attention: 2 layers, width 32, 4 heads, 5 x 5 patches."""
    return tiny_model("vit", "eager")


@pytest.fixture(scope="session")
def tiny_vit_sdpa() -> Tiny:
    """The same ViT with fused attention."""
    return tiny_model("vit", "sdpa")
