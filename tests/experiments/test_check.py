"""The conformance suite finds what is wrong, says what cannot be checked, and passes the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from experiments.check import main, summary
from experiments.conformance import Check, awkward_sizes
from experiments.judge import Exact, Half
from experiments.load import load_subject
from experiments.verdicts import Report
from search_space.dim_rules import base
from search_space.dim_rules.base import Flow, Query, along_first
from tuner.measure.cpu import CpuBackend

MODELS = "tests.experiments.small_models"


def check(name: str, length: int = 24, **options: Any) -> Report:
    """The report on a small model."""
    arguments: dict[str, Any] = {"combinations": 2, "max_classes": 4, **options}
    dtype = str(arguments.pop("dtype", "fp32"))
    subject = load_subject(f"{MODELS}:{name}", dtype=dtype)
    return Check(subject, CpuBackend(), length, **arguments).run()


def verdicts(report: Report) -> set[str]:
    return {trial.verdict for row in report.rows for trial in row.trials}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that must end with exit code 2."""
    assert main([*arguments, "--seq-len", "16"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("check: error: ")
    assert printed.err.count("\n") == 1, printed.err
    return printed.err


@pytest.fixture(autouse=True)
def _no_warnings_of_export() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def test_a_sound_model_passes_at_both_lengths_from_one_capture() -> None:
    report = check("attention", other=17)
    assert verdicts(report) <= {"ok", "not legal"}
    assert report.wrong == report.peaks_off == report.left_out == 0
    lengths = {trial.length for row in report.rows for trial in row.trials}
    assert lengths == {24, 17}
    sizes = {trial.chunk_size for row in report.rows for trial in row.trials}
    assert {1, 3, 8, 12, 23} <= sizes
    assert "all outputs agree" in summary(report)
    measured = [t.measured_bytes for row in report.rows for t in row.trials if t.verdict == "ok"]
    assert min(measured) > 0
    assert len(set(measured)) > 3, "plans of other chunk sizes have other peaks"


def test_a_rule_that_slices_what_is_mixed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(query: Query) -> Flow | None:
        return along_first(query)  # also the dimension that the softmax sums over

    for name in ("aten.softmax", "aten._softmax"):
        monkeypatch.setitem(base._RULES, name, wrong)
    report = check("attention", max_classes=None, thorough=True)
    assert "wrong" in verdicts(report)
    worst = max(trial.error for row in report.rows for trial in row.trials)
    assert worst > 1e-3
    assert "WRONG" in summary(report)


def test_a_rule_that_forgets_what_came_before_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not check("running").wrong
    monkeypatch.setitem(base._RULES, "aten.cumsum", along_first)
    report = check("running")
    assert "wrong" in verdicts(report), "without regions that no plan would use"


def test_a_rule_that_slices_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole_instead(query: Query) -> Flow | None:
        return Flow(())  # all of the argument at every pass

    monkeypatch.setitem(base._RULES, "aten.relu", whole_instead)
    report = check("attention", max_classes=None, thorough=True)
    assert "failed" in verdicts(report)


def test_the_command_ends_with_1_where_outputs_are_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [f"{MODELS}:attention", "--seq-len", "16", "--combinations", "0"]
    assert main([*command, "--max-classes", "2"]) == 0
    printed = capsys.readouterr().out
    assert "all outputs agree" in printed
    assert "2 of" in printed, "the limit is told"
    for name in ("aten.softmax", "aten._softmax"):
        monkeypatch.setitem(base._RULES, name, along_first)
    assert main([*command, "--thorough"]) == 1
    printed = capsys.readouterr().out
    assert "WRONG OR FAILED" in printed
    lines = [line for line in printed.splitlines() if line.rstrip("│ ").endswith((" ok", "wrong"))]
    kinds = ["wrong" in line.rsplit("│", 2)[-2] for line in lines]
    assert any(kinds)
    assert kinds == sorted(kinds, reverse=True), "the worst rows come first"


def test_memory_that_nobody_modelled_is_told() -> None:
    report = check("with_scratch")
    assert report.peaks_off
    assert not report.wrong
    assert [op.op for op in report.unknown] == ["autochunk_tests.greedy.default"]


def test_strictness_makes_a_peak_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    command = [f"{MODELS}:with_scratch", "--seq-len", "16", "--combinations", "0"]
    command += ["--max-classes", "1"]
    assert main(command) == 0
    assert main([*command, "--strict"]) == 1
    assert "peak off" in capsys.readouterr().out


def test_an_input_that_is_written_to_is_a_failure() -> None:
    report = check("with_writes", max_classes=1)
    assert report.wrong
    reasons = {trial.reason for row in report.rows for trial in row.trials}
    assert any("was written to" in reason for reason in reasons)


def test_half_precision_is_held_to_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    report = check("attention", dtype="bf16")
    assert report.unit == "of own error"
    assert not report.wrong
    whole = report.rows[0].trials[0]
    assert whole.error == pytest.approx(1.0, abs=0.02), "unchunked, the error is the model's own"
    for name in ("aten.softmax", "aten._softmax"):
        monkeypatch.setitem(base._RULES, name, along_first)
    assert check("attention", dtype="bf16", max_classes=None, thorough=True).wrong


def test_the_time_limit_is_told() -> None:
    report = check("attention", seconds=0.0)
    assert report.left_out > 0
    assert any("time limit" in note for note in report.notes)
    assert f"{report.left_out} runs left out" in summary(report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.at.all:model"], "cannot be imported"),
        ([f"{MODELS}:atention"], "did you mean 'attention'"),
        (["gpt7"], "no subject"),
        ([f"{MODELS}:no_factory"], "returned int"),
        ([f"{MODELS}:training"], "training mode"),
        ([f"{MODELS}:uncapturable"], "could not trace"),
        ([f"{MODELS}:noisy"], "other outputs when it is run again"),
        ([f"{MODELS}:vacuous"], "constant"),
        ([f"{MODELS}:attention", "--args", "width"], "key=value"),
        ([f"{MODELS}:attention", "--args", "depth=3"], "unexpected keyword argument"),
        ([f"{MODELS}:attention", "--max-classes", "0"], "must be positive"),
        ([f"{MODELS}:attention_alone"], "--inputs"),
    ],
)
def test_what_cannot_be_checked_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in refusal(capsys, *arguments)


def test_a_model_alone_goes_with_a_function_of_inputs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [f"{MODELS}:attention_alone", "--inputs", f"{MODELS}:attention_inputs"]
    assert main([*command, "--seq-len", "12", "--max-classes", "1", "--combinations", "0"]) == 0
    assert "all outputs agree" in capsys.readouterr().out


@pytest.mark.parametrize("extent", [2, 3, 5, 64, 65, 1000, 10_000, 100_000])
def test_chunk_sizes_divide_badly_and_do_not_take_for_ever(extent: int) -> None:
    sizes = awkward_sizes(extent)
    assert sizes == tuple(sorted(set(sizes)))
    assert all(0 < size < extent for size in sizes)
    assert extent - 1 in sizes
    assert (1 in sizes) == (extent <= 64)
    assert all(-(-extent // size) <= 2048 for size in sizes)
    if 4 < extent <= 6144:
        assert 3 in sizes


def test_judges_see_values_shapes_and_structure() -> None:
    expected = {"a": torch.linspace(-2, 2, 5), "n": torch.arange(3)}
    judge = Exact(expected, 1e-5)
    assert not judge({"a": expected["a"] * (1 + 5e-6), "n": torch.arange(3)}).reason
    assert judge({"a": expected["a"] * (1 + 5e-5), "n": torch.arange(3)}).reason
    assert judge({"a": expected["a"], "n": torch.tensor([0, 1, 3])}).reason
    assert "structure" in judge((expected["a"], expected["n"])).reason
    assert judge({"a": expected["a"][:4], "n": torch.arange(3)}).reason
    ideal = torch.linspace(1, 2, 1000)
    own = ideal.bfloat16()
    half = Half(own, ideal)
    assert half(own).error == 1.0
    assert not half(own).reason
    one_off = own.clone()
    one_off[7] += 0.25
    assert half(one_off).reason
    assert half(torch.full_like(own, float("nan"))).reason
