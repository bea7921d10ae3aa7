"""The longest length of a model whose answer is known by hand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from experiments.load import load_subject
from experiments.longest import main
from experiments.longest_search import Preset, Search
from experiments.sized import Sized
from search_space.budget import parse_budget
from search_space.eager_peak import eager_peak_bytes
from search_space.plan import decode_plan, encode_plan
from tuner.measure.isolate import Isolated

OUTER = "tests.experiments.small_models:outer"
CAP = 2**19


@pytest.fixture(scope="module")
def sized() -> Sized:
    """n x n product and softmax of it: 8 n^2 bytes eager."""
    return Sized(load_subject(OUTER), 32)


def test_the_eager_answer_is_the_one_by_hand(sized: Sized) -> None:
    modes = {m.name: m for m in Search(sized, CAP, Preset(32, 1, 1 << 16)).run()}
    # two squares of float32 at once: 8 n^2 <= 2^19
    assert modes["eager"].found.length == 256
    assert modes["eager"].peak_bytes == CAP
    chunked = modes["chunked"]
    # rows in 64 chunks, with the vector of outputs: 4 n + 8 n ceil(n / 64) <= 2^19
    by_hand = max(n for n in range(1, 4000) if 4 * n + 8 * n * -(-n // 64) <= CAP)
    assert by_hand > 7 * 256
    assert chunked.found.length >= by_hand
    assert chunked.peak_bytes <= CAP
    assert chunked.plan is not None
    # one row, and its softmax, is the least that any plan over rows can hold
    assert 4 * chunked.found.length + 8 * chunked.found.length <= CAP


def test_a_larger_cap_never_gives_a_shorter_length(sized: Sized) -> None:
    found = [
        {m.name: m.found.length for m in Search(sized, cap, Preset(32, 8, 4096)).run()}
        for cap in (2**17, 2**18, 2**19)
    ]
    for shorter, longer in itertools.pairwise(found):
        assert all(shorter[name] <= longer[name] for name in shorter)
        assert longer["chunked"] >= longer["captured"] >= longer["eager"] > 0


def test_weights_and_inputs_can_be_counted(sized: Sized) -> None:
    assert sized.input_bytes(100) == 400
    assert sized.weight_bytes == 0
    # a length that no other way exceeds much: it is eager's that is known by hand
    fixed = Search(sized, CAP, Preset(32, 1, 128), fixed_bytes=lambda n: CAP - 8 * 64 * 64)
    assert {m.name: m.found.length for m in fixed.run()}["eager"] == 64


def test_no_tensor_of_a_long_length_is_made() -> None:
    subject = load_subject("tests.experiments.small_models:squares")
    sized = Sized(subject, 16)
    (tensor,), _ = sized.given(100_000)
    assert tensor.is_meta, "40 GB"
    assert tensor.shape == (100_000, 100_000)
    assert sized.eager_bytes(100_000) == 2 * 4 * 100_000**2
    (small,), _ = sized.given(64)
    assert not small.is_meta
    args, kwargs = subject.inputs(64)
    assert sized.eager_bytes(64) == eager_peak_bytes(subject.model, args, kwargs)
    assert sized.unchunked_bytes(100_000) >= sized.eager_bytes(100_000) // 2


def test_a_plan_in_a_process_of_its_own_gives_what_was_predicted(
    sized: Sized, tmp_path: Path
) -> None:
    analysis = sized.analysis(300)
    selected = analysis.selector.within(analysis.memory.profile().peak_bytes // 3)
    spec: dict[str, Any] = {
        "factory": OUTER, "arguments": {}, "dtype": "fp32", "inputs": None, "example": 32,
        "threads": 1, "memory_bytes": 8 << 30,
    }  # fmt: skip
    plan = encode_plan(selected.plan)
    assert decode_plan(plan) == selected.plan
    log = tmp_path / "log"
    with Isolated("experiments.longest_session:Session", spec, log=log) as session:
        reply: dict[str, Any] = session.request({"do": "both", "length": 300, "plan": plan}, 200)
    assert reply["status"] == "ok", reply
    assert reply["error"] <= 1e-5
    assert not reply["wrong"]
    assert reply["predicted_bytes"] == selected.peak_bytes
    assert reply["plan"]["measured_bytes"] == pytest.approx(selected.peak_bytes, rel=0.03)
    assert reply["eager"]["measured_bytes"] == pytest.approx(8 * 300**2, rel=0.03)


def test_the_command_reports_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "outer.json"
    command = [OUTER, "--cap", "512KiB", "--start", "32", "--step", "16", "--most", "4096"]
    command += ["--no-run", "--save", str(path)]
    assert main([*command, "--bar", "3"]) == 0
    assert "met" in capsys.readouterr().out
    record = json.loads(path.read_text())
    assert record["ratio"] >= 3
    assert {mode["name"] for mode in record["modes"]} == {
        "eager", "captured", "chunked", "chunked, min",
    }  # fmt: skip
    # a bar beyond any length, for which short ones will do
    assert main([*command, "--most", "256", "--bar", "1000"]) == 1
    assert "MISSED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cap", "much"], "not understood"),
        (["--cap", "0.5"], "amount of memory"),
        (["--cap", "min"], "amount of memory"),
        (["--start", "1"], "2 <= start"),
        (["--start", "64", "--most", "32"], "start <= most"),
    ],
)
def test_wrong_options_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([OUTER, "--no-run", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_budget_texts_are_as_elsewhere() -> None:
    assert parse_budget("512KiB").absolute_bytes == CAP
