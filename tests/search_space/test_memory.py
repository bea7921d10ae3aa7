"""Predicted memory against the allocator's own events."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from experiments.subjects import bert, gpt2, llama, vit
from search_space.candidates import find_classes
from search_space.eager_peak import eager_peak_bytes
from search_space.plan import Choice
from search_space.space import SearchSpace
from tests.tiny import Tiny, analysed
from tuner.measure.cpu import CpuBackend

Model = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def _few_objects() -> Iterator[None]:
    """Each measurement collects garbage first, which is quick where little is left to look at."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def measured(call: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """The peak of a call's second run, in bytes."""
    with torch.no_grad():
        call(*args, **kwargs)
        return CpuBackend().peak(lambda: call(*args, **kwargs))[1].activation_bytes


def small(name: str, attention: str = "eager") -> Model:
    """A model whose peak is some MB, so that allocations of a few bytes do not matter."""
    factory, sizes, length = {
        "gpt2": (gpt2, {"positions": 512, "vocabulary": 101}, 128),
        "vit": (vit, {"patch": 8, "image": 64}, 96),
        "llama": (llama, {"key_heads": 2, "vocabulary": 101}, 128),
        "bert": (bert, {"positions": 512, "vocabulary": 101}, 128),
    }[name]
    model, inputs = factory(layers=2, width=64, heads=4, attention=attention, **sizes)
    return (model, *inputs(length))


@pytest.fixture(scope="module", params=["gpt2-eager", "gpt2-sdpa", "vit-eager", "vit-sdpa"])
def subject(request: pytest.FixtureRequest) -> Tiny:
    """GPT-2 at 128 tokens, and ViT at 12 x 12 patches."""
    made = analysed(*small(*request.param.split("-")))
    gc.freeze()
    return made


def test_the_unchunked_peak_is_the_measured_one(subject: Tiny) -> None:
    assert subject.memory.profile().peak_bytes == pytest.approx(
        measured(subject.module(), *subject.args), rel=0.02
    )


def test_each_classs_peak_is_the_measured_one(subject: Tiny) -> None:
    wrong = []
    classes = find_classes(subject.memory)
    for item in classes:
        choices = [Choice(item.regions, max(1, item.extent // 3))]
        predicted = subject.memory.profile(choices).peak_bytes
        found = measured(subject.module(choices), *subject.args)
        if predicted != pytest.approx(found, rel=0.05):
            where = item.loops[0].region
            wrong.append(f"{item.key} {where}: predicted {predicted}, measured {found}")
    assert not wrong, "\n".join(wrong)
    assert len(classes) >= 8


def test_the_lowest_plans_peak_is_the_measured_one(subject: Tiny) -> None:
    # one region after another, each at a sixteenth, as long as they can be scheduled together
    classes = find_classes(subject.memory)
    space = SearchSpace(subject.memory, classes)
    plan = space.decode({item.key: max(1, item.extent // 16) for item in classes})
    assert plan.choices
    predicted = subject.memory.profile(plan.choices).peak_bytes
    assert predicted < subject.memory.profile().peak_bytes
    found = measured(subject.module(plan.choices), *subject.args)
    assert predicted == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["gpt2", "vit", "llama", "bert"])
def test_the_eager_peak_needs_no_computing(name: str, attention: str) -> None:
    model, args, kwargs = small(name, attention)
    found = measured(model, *args, **kwargs)
    assert eager_peak_bytes(model, args, kwargs) == pytest.approx(found, rel=0.02)
