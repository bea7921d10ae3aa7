"""Comparing outputs: what counts as the same and what does not."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree
from transformers.modeling_outputs import BaseModelOutput

from tuner.measure.compare import Difference, compare


@dataclass
class Pair:
    left: torch.Tensor
    right: torch.Tensor | None = None


def differ(found: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> Difference:
    return compare(found, expected, rtol, atol)


def floats(*values: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def test_equal_outputs_have_no_difference() -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    found = differ((x, [x.double(), 3]), (x.clone(), [x.double(), 3]))
    assert found == Difference(0.0, 0.0, "")
    assert found.equal


def test_the_tolerance_is_relative_to_the_tensors_largest_value() -> None:
    expected = floats(1e-3, -100.0)
    # 1 % off in the small value, but within 1e-5 of the largest
    assert differ(floats(1.01e-3, -100.0), expected, rtol=1e-5, atol=0.0).equal
    found = differ(floats(1e-3 + 2e-3, -100.0), expected, rtol=1e-5, atol=0.0)
    assert not found.equal
    assert found.max_abs == pytest.approx(2e-3, rel=1e-4)
    assert found.max_rel == pytest.approx(2e-5, rel=1e-4)
    # the largest of its own tensor, not of another one
    assert not differ(
        (floats(3e-3), floats(100.0)), (floats(1e-3), floats(100.0)), rtol=1e-5, atol=0.0
    ).equal


def test_the_absolute_tolerance_holds_where_all_is_zero() -> None:
    zeros = torch.zeros(4)
    assert differ(zeros + 1e-7, zeros, rtol=0.0, atol=1e-6).equal
    assert not differ(zeros + 1e-5, zeros, rtol=1.0, atol=1e-6).equal


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(6), torch.zeros(2, 3)),
        (torch.zeros(1), torch.zeros(())),
        (torch.zeros(3, dtype=torch.float64), torch.zeros(3)),
        (torch.zeros(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.float16)),
        (torch.zeros(3, dtype=torch.int32), torch.zeros(3, dtype=torch.int64)),
        (0.0, torch.zeros(())),
        ("text", torch.zeros(3)),
    ],
)
def test_another_shape_or_dtype_is_different(found: Any, expected: torch.Tensor) -> None:
    assert "shape or dtype" in differ(found, expected, rtol=1e9, atol=1e9).reason


def test_nan_is_the_same_at_the_same_place_alone() -> None:
    assert differ(floats(1.0, nan), floats(1.0, nan)).equal
    assert "NaN" in differ(floats(nan, 1.0), floats(1.0, nan)).reason
    assert "NaN" in differ(floats(1.0, nan), floats(1.0, 1.0)).reason
    assert "NaN" in differ(floats(1.0, 1.0), floats(1.0, nan)).reason
    assert differ(floats(nan, nan), floats(nan, nan)).equal
    # a NaN must not hide that another element differs
    assert "differs by" in differ(floats(nan, 1.0), floats(nan, 2.0)).reason


def test_infinities_are_the_same_with_the_same_sign_alone() -> None:
    assert differ(floats(inf, -inf, 1.0), floats(inf, -inf, 1.0)).equal
    assert "infinity" in differ(floats(-inf, 1.0), floats(inf, 1.0)).reason
    assert "infinity" in differ(floats(nan, 1.0), floats(inf, 1.0)).reason
    largest = torch.finfo(torch.float32).max
    assert not differ(floats(largest), floats(inf), rtol=1.0, atol=0.0).equal
    assert not differ(floats(inf), floats(largest), rtol=1.0, atol=0.0).equal
    # an infinite value must not make all others seem near
    assert "differs by" in differ(floats(inf, 1.0), floats(inf, 2.0)).reason


def test_whole_numbers_and_truth_values_are_exact() -> None:
    numbers = torch.tensor([1, 2, 10**12])
    assert differ(numbers.clone(), numbers, rtol=1.0, atol=100.0).equal
    off = differ(numbers + torch.tensor([0, 0, 1]), numbers, rtol=1.0, atol=100.0)
    assert "int64" in off.reason
    truth = torch.tensor([True, False])
    assert differ(truth.clone(), truth).equal
    assert not differ(~truth, truth, rtol=10.0, atol=10.0).equal


def test_narrow_floats_are_compared_in_a_wide_type() -> None:
    expected = floats(1.0, 256.0, dtype=torch.bfloat16)
    # next to each other in bfloat16: 256 and 258
    found = differ(floats(1.0, 258.0, dtype=torch.bfloat16), expected, rtol=0.01, atol=0.0)
    assert found.equal
    assert found.max_abs == 2.0
    assert found.max_rel == 2 / 256
    assert not differ(floats(1.0, 264.0, dtype=torch.bfloat16), expected, 0.01, 0.0).equal
    # in float16 the difference itself would be infinite
    far = differ(floats(-6e4, dtype=torch.float16), floats(6e4, dtype=torch.float16))
    assert far.max_abs == pytest.approx(12e4, rel=1e-3)


def test_double_precision_is_not_narrowed() -> None:
    x = floats(1.0, 2.0, dtype=torch.float64)
    assert differ(x + 1e-12, x, rtol=0.0, atol=0.0).max_abs > 0
    assert not differ(x + 1e-12, x, rtol=0.0, atol=1e-13).equal


def test_absent_outputs_do_not_count() -> None:
    x = floats(1.0)
    assert differ((x, None), (x, None)).equal
    assert differ((None, x), (x,)).equal
    assert differ(None, None).equal
    assert "0 outputs instead of 1" in differ((None,), (x,)).reason
    assert "2 outputs instead of 1" in differ((x, x), (x,)).reason


def test_values_that_are_no_tensors_are_equal_or_not() -> None:
    assert differ({"n": 3, "s": "a"}, {"n": 3, "s": "a"}).equal
    assert "4 instead of 3" in differ([4], [3]).reason
    assert not differ([3], ["3"]).equal


def test_structures_are_compared_leaf_by_leaf() -> None:
    x, y = floats(1.0, 2.0), floats(3.0)
    assert differ({"a": x, "b": [y, (x,)]}, {"a": x, "b": [y, (x,)]}).equal
    found = differ({"a": x, "b": [y, (x + 1,)]}, {"a": x, "b": [y, (x,)]})
    assert "output 2" in found.reason
    assert found.max_abs == 1.0


def test_a_librarys_output_class_is_compared_by_its_fields() -> None:
    x = torch.ones(2, 3)
    same = BaseModelOutput(last_hidden_state=x.clone(), hidden_states=(x, x))
    expected = BaseModelOutput(last_hidden_state=x, hidden_states=(x, x))
    assert differ(same, expected).equal
    off = BaseModelOutput(last_hidden_state=x, hidden_states=(x, x + 1))
    assert "output 2" in differ(off, expected).reason


def test_a_dataclass_that_capture_has_seen_is_compared_by_its_fields() -> None:
    pytree.register_dataclass(Pair)
    x = torch.ones(2)
    assert differ(Pair(x.clone()), Pair(x)).equal
    assert differ(Pair(x, x), Pair(x, x + 1e-9)).equal
    assert not differ(Pair(x, x), Pair(x, x + 1)).equal


def test_empty_tensors_and_other_strides_are_equal_by_value() -> None:
    assert differ(torch.empty(0, 3), torch.empty(0, 3)).equal
    x = torch.arange(12.0).reshape(3, 4)
    strided = x.t().contiguous().t()
    assert strided.stride() != x.stride()
    assert differ(strided, x, rtol=0.0, atol=0.0).equal
    assert not differ(x.flip(0), x).equal


def test_the_first_reason_is_kept_and_the_largest_difference_is_of_all() -> None:
    x = floats(1.0)
    found = differ((x + 1, x + 5), (x, x))
    assert "output 0" in found.reason
    assert found.max_abs == 5.0
