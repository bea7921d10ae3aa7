"""``autochunk plans explain | verify | merge | validate``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tuner.campaigns import campaign, write
from tests.tuner.small_factory import blocks
from tests.tuner.test_database import graph_entry, length_entry
from tuner import apply
from tuner.cli import main
from tuner.database import (
    GraphEntry,
    LengthEntry,
    PlanRow,
    Reference,
    read_database,
    write_graph,
)
from tuner.environment import device_name
from tuner.measure.cpu import CpuBackend
from tuner.plans_merge import merge_graphs

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a ``plans`` command: exit code, what it printed, and its errors."""

    def command(*arguments: object) -> tuple[int, str, str]:
        code = main(["plans", *map(str, arguments)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err

    return command


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> GraphEntry:
    """The small campaign's model at 96, with a plan that holds and one whose time cannot."""
    model, inputs = blocks()
    args, _ = inputs(96)
    prepared = apply(model.eval(), args, memory_budget=0.5).prepare(*args)
    plan, peak = prepared.chosen.plan, prepared.chosen.peak_bytes
    holds = PlanRow(plan, peak, peak, 5.0, 1.0, 0.2, 5.0)
    fast = replace(
        holds, latency_ms=1.0, ratio=0.02, ratio_low=0.01, ratio_high=0.03,
        plan=replace(plan, choices=(replace(plan.choices[0], chunk_size=3), *plan.choices[1:])),
    )  # fmt: skip
    lower = prepared.analysis.memory.profile(fast.plan.choices).peak_bytes
    fast = replace(fast, peak_bytes=lower, predicted_bytes=lower)
    entry = LengthEntry(96, ((2, 96, 32),), Reference(3 * peak, 5.0), (fast, holds))
    environment = {"device": "cpu", "torch": torch.__version__, "dtype": "float32"}
    return GraphEntry(plan.fingerprint, environment, {"n0": 96}, None, (entry,))


@pytest.fixture
def folder(tuned: GraphEntry, tmp_path: Path) -> Path:
    write_graph(tmp_path / "plans", device_name("cpu"), "blocks", tuned)
    return tmp_path / "plans"


def test_explain_says_what_the_database_holds_for_a_length(run: Run, folder: Path) -> None:
    code, text, _ = run("explain", folder, "--model", "blocks", "--seq-len", 96)
    assert code == 0
    assert ": fresh" in text and "tuned at 96" in text
    (marked,) = (line for line in text.splitlines() if "->" in line)
    assert "1.0 ms" in marked
    _, text, _ = run("explain", folder, "--model", "Blocks", "--seq-len", 50)
    assert "nothing was tuned at 50" in text and "the next larger length is 96" in text
    _, text, _ = run("explain", folder, "--model", "blocks", "--seq-len", 97)
    assert "the choice is analytic" in text
    _, text, _ = run(
        "explain", folder, "--model", "blocks", "--seq-len", 96, "--memory-budget", "1KiB"
    )
    assert "none fits" in text and text.count("above the budget") == 2


def test_explain_marks_for_the_minimum_what_would_be_served(
    run: Run, tuned: GraphEntry, tmp_path: Path
) -> None:
    """The lowest of those that are not too slow, as a campaign chooses it."""
    (length,) = tuned.lengths
    low, high = length.frontier
    slow = replace(
        low, ratio=2.0, ratio_low=1.9, ratio_high=2.1, peak_bytes=high.peak_bytes - 128
    )
    between = replace(
        low, ratio=1.2, ratio_low=1.1, ratio_high=1.3, peak_bytes=high.peak_bytes - 64,
        plan=replace(low.plan, choices=(replace(low.plan.choices[0], chunk_size=4),
                                        *low.plan.choices[1:])),
    )  # fmt: skip
    entry = replace(tuned, lengths=(replace(length, frontier=(slow, between, high)),))
    write_graph(tmp_path, device_name("cpu"), "blocks", entry)
    _, text, _ = run(
        "explain", tmp_path, "--model", "blocks", "--seq-len", 96, "--memory-budget", "min"
    )
    (marked,) = (line for line in text.splitlines() if "->" in line)
    assert "1.200 of eager's time" in marked


def test_explain_with_a_configuration_decides_as_apply_does(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    config = write(tmp_path, campaign(tmp_path))
    given = ("explain", folder, "--config", config)
    code, text, _ = run(*given, "--seq-len", 96)
    assert code == 0
    assert "fresh" in text and "plan: tuned at 96\n" in text and "fits; tuned: peak" in text
    _, text, _ = run(*given, "--seq-len", 80, "--memory-budget", "0.6")
    assert "plan: tuned at 96, the next larger length" in text
    _, text, _ = run(*given, "--seq-len", 128, "--memory-budget", "0.6")
    assert "plan: analytic" in text
    _, text, _ = run(*given, "--seq-len", 96, "--memory-budget", "2KiB")
    assert "too large" in text and "apply would refuse: no plan fits" in text
    assert not (tmp_path / "runs").exists()


def test_explain_refuses_what_it_cannot_look_up(run: Run, folder: Path) -> None:
    for arguments, message in (
        (("--model", "block", "--seq-len", 96), "no model 'block', but blocks; did you mean"),
        (("--seq-len", 96), "name the model"),
        (("--model", "blocks", "--seq-len", 0), "--seq-len must be"),
    ):
        code, _, error = run("explain", folder, *arguments)
        assert code == 2
        assert message in error


def test_verify_reports_what_drifted_and_update_mends_it(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    config = write(tmp_path, campaign(tmp_path))
    code, text, _ = run("verify", folder, "--config", config)
    assert code == 1
    lines = [line for line in text.splitlines() if line.startswith("length 96")]
    assert len(lines) == 2
    assert "time ratio 0.020 ->" in lines[0] and lines[1].endswith("holds")
    assert "2 plans run again, 1 drifted" in text
    before = read_database(folder)
    code, text, _ = run("verify", folder, "--config", config, "--update")
    assert code == 0 and "written to" in text
    (now,) = read_database(folder)
    assert now != before[0]
    assert all(row.ratio > 0.1 for row in now.graphs[0].lengths[0].frontier)
    assert now.graphs[0].environment["torch"] == torch.__version__
    # a database that knows another model alone
    write_graph(tmp_path / "other", device_name("cpu"), "other", graph_entry())
    code, _, error = run("verify", tmp_path / "other", "--config", config)
    assert code == 2 and "no plans for blocks" in error


def test_verify_finds_plans_of_fused_attention(run: Run, tmp_path: Path) -> None:
    model, inputs = blocks()
    args, _ = inputs(96)
    prepared = apply(model.eval(), args, kernels="sdpa").prepare(*args)
    plan, peak = prepared.chosen.plan, prepared.chosen.peak_bytes
    assert plan.rewrites == ("sdpa",)
    row = PlanRow(plan, peak, peak, 5.0, 1.0, 0.2, 5.0)
    entry = LengthEntry(96, ((2, 96, 32),), Reference(3 * peak, 5.0), (row,))
    environment = {"device": "cpu", "torch": torch.__version__, "dtype": "float32"}
    graph = GraphEntry(plan.fingerprint, environment, {"n0": 96}, None, (entry,))
    write_graph(tmp_path / "plans", device_name("cpu"), "blocks", graph)
    config = write(tmp_path, campaign(tmp_path, kernels={"attention": "sdpa"}))
    code, text, error = run("verify", tmp_path / "plans", "--config", config)
    assert (code, error) == (0, ""), text
    assert "1 plans run again, 0 drifted" in text


def test_verify_does_not_time_plans_beside_a_campaign(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CpuBackend, "turn", lambda self, most_s: nullcontext(False))
    before = {path: path.read_bytes() for path in folder.rglob("*.yaml")}
    config = write(tmp_path, campaign(tmp_path, seq_lens=[96]))
    code, _, error = run("verify", folder, "--config", config, "--update")
    assert code != 0
    assert "a campaign keeps cpu busy; verify the plans after its end" in error
    assert {path: path.read_bytes() for path in folder.rglob("*.yaml")} == before


@pytest.mark.parametrize("whole", [True, False], ids=["graph", "length"])
def test_verify_makes_stale_plans_usable(
    run: Run, tuned: GraphEntry, tmp_path: Path, whole: bool
) -> None:
    plans = tmp_path / "plans"
    before = {**tuned.environment, "torch": "2.1.0"}
    lengths = tuple(replace(one, environment=before) for one in tuned.lengths)
    old = replace(tuned, environment=before) if whole else replace(tuned, lengths=lengths)
    write_graph(plans, device_name("cpu"), "blocks", old)
    model, inputs = blocks()
    args, _ = inputs(96)
    stale = apply(model.eval(), args, plans=plans, memory_budget=0.9)
    assert "plan: analytic" in stale.explain()
    config = write(tmp_path, campaign(tmp_path))
    assert run("verify", plans, "--config", config, "--update")[0] == 0
    assert "plan: tuned at 96" in apply(model, args, plans=plans, memory_budget=0.9).explain()


def test_merge_brings_databases_together(run: Run, tmp_path: Path) -> None:
    one, two, into = tmp_path / "one", tmp_path / "two", tmp_path / "into"
    write_graph(one, "cpu a", "m", graph_entry(lengths=(128, 512)))
    write_graph(two, "cpu a", "m", graph_entry(lengths=(256,)))
    write_graph(two, "cpu b", "m", graph_entry("beef"))
    code, text, _ = run("merge", one, two, into)
    assert code == 0 and len(text.splitlines()) == 3
    found = {file.device: file.graphs for file in read_database(into)}
    assert found["cpu a"] == (graph_entry(lengths=(128, 256, 512)),)
    assert found["cpu b"] == (graph_entry("beef"),)
    assert run("merge", one, into)[0] == 0, "again changes nothing"
    assert {file.device: file.graphs for file in read_database(into)} == found
    (file,) = one.rglob("*.yaml")
    for wrong in ((one, file), (into, into)):
        assert run("merge", *wrong)[0] == 2
    file.write_text("schema: 3\n", encoding="utf-8")
    before = [path.read_bytes() for path in into.rglob("*.yaml")]
    assert run("merge", two, one, into)[0] == 2
    assert [path.read_bytes() for path in into.rglob("*.yaml")] == before


def test_merging_one_length_keeps_the_frontier_of_both_or_the_later_version() -> None:
    low = graph_entry(lengths=(128,))
    (length,) = low.lengths
    first, second, *rest = length.frontier
    better = replace(second, latency_ms=1.0, ratio=0.4, ratio_low=0.3, ratio_high=0.5)
    other = replace(low, lengths=(replace(length, frontier=(better,)),))
    merged = merge_graphs(low, other)
    assert {row.plan for row in merged.lengths[0].frontier} == {first.plan, second.plan}
    assert better in merged.lengths[0].frontier
    assert rest, "rows that the better one beats are gone"
    newer = replace(other, environment={**other.environment, "torch": "2.14.0"})
    assert merge_graphs(low, newer) == newer
    assert merge_graphs(newer, low) == newer
    more = replace(low, lengths=(*low.lengths, length_entry("0f3a", 999)))
    merged = merge_graphs(newer, more)
    assert [one.length for one in merged.lengths] == [128, 999]
    assert [one.environment for one in merged.lengths] == [None, low.environment]
    assert merge_graphs(more, newer) == merged
    # what a compiled plan takes uncompiled counts: it beats none that takes less
    compiled = replace(better, plan=second.plan.as_compiled(), peak_bytes=1)
    quick = replace(low, lengths=(replace(length, frontier=(compiled,)),))
    assert first in merge_graphs(low, quick).lengths[0].frontier
    begun = replace(other, lengths=(replace(other.lengths[0], incomplete=True),))
    assert merge_graphs(low, begun) == merge_graphs(begun, low) == low


def test_validate_names_every_file_that_is_damaged_or_wrong(run: Run, tmp_path: Path) -> None:
    write_graph(tmp_path, "cpu a", "good", graph_entry())
    code, text, _ = run("validate", tmp_path)
    assert code == 0 and "ok: " in text and "2 lengths, 8 plans; here compatible" in text
    cut = write_graph(tmp_path, "cpu a", "cut", graph_entry())
    cut.write_bytes(cut.read_bytes()[:-30])
    odd = write_graph(tmp_path, "cpu a", "odd", graph_entry())
    odd.write_text(odd.read_text("utf-8").replace("0.85, 1.0625", "1.85, 1.0625"), "utf-8")
    code, text, errors = run("validate", tmp_path)
    assert code == 2
    assert f"damaged: the plan database {cut}" in errors
    assert errors.count(f"wrong: {odd}") == 8
    assert "good.yaml" in text


@pytest.mark.parametrize("action", ["list", "show", "validate"])
def test_a_folder_without_plans_is_said_to_be(run: Run, tmp_path: Path, action: str) -> None:
    code, out, errors = run(action, tmp_path)
    assert (code, out) == (0, "")
    assert f"{tmp_path} holds no plans" in errors
