"""The plan database: round trips, merging, writers at once, damage, and the order of look-up."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from search_space.budget import parse_budget
from search_space.errors import DatabaseError
from search_space.plan import Choice, Plan, Region
from tuner.database import (
    GraphEntry,
    LengthEntry,
    ModelFile,
    PlanRow,
    Reference,
    model_path,
    read_database,
    read_file,
    replace_lengths,
    write_graph,
)

DEVICE, MODEL = "cpu Tiny (R) 2", "org/Model 1"
SPAWN = multiprocessing.get_context("spawn")

# a class of two occurrences, and one that computes the node 2 again in each of its three
ATTENTION = tuple(Region((10, 11, 12), (1, 2, 2)).shifted(20 * k) for k in range(2))
ALONE = (Region((300, 301), (0, 0)),)
WITHIN, FIRST, LAST = ((Region(nodes, (0,) * len(nodes)),) for nodes in ((0, 1), (0,), (2,)))
MASKED = tuple(Region((2, 15, 16, 19), (0, 1, 1, 3), (2,)).shifted(20 * k) for k in range(3))


def row(
    fingerprint: str, peak: int, latency_ms: float, sizes: tuple[int, int] = (0, 0)
) -> PlanRow:
    """A row whose plan chunks MASKED and ATTENTION at these sizes, 0 for not at all."""
    pairs = zip((MASKED, ATTENTION), sizes, strict=True)
    plan = Plan(fingerprint, tuple(Choice(regions, size) for regions, size in pairs if size))
    return PlanRow(plan, peak, peak - 7, latency_ms, 0.9, 0.85, 1.0625)


def length_entry(fingerprint: str, length: int, batch: int = 1, peak: int = 9000) -> LengthEntry:
    rows = (
        row(fingerprint, peak // 4, 31.25, (8, 16)),
        row(fingerprint, peak // 3, 30.5, (0, 64)),
        row(fingerprint, peak // 2, 20.125, (8, 0)),
        row(fingerprint, peak, 10.0),
    )
    shapes = ((batch, length), (batch, 3, length))
    return LengthEntry(length, shapes, Reference(peak, 12.3456), rows)


def graph_entry(fingerprint: str = "0f3a", lengths: tuple[int, ...] = (128, 512)) -> GraphEntry:
    return GraphEntry(
        fingerprint,
        {"torch": "2.13.0", "dtype": "float32", "threads": "2"},
        {"n0": 128, "n1": 1},
        parse_budget(0.5),
        tuple(length_entry(fingerprint, length) for length in lengths),
    )


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(graph_entry(), id="two-lengths"),
        pytest.param(graph_entry(lengths=()), id="no-length"),
        pytest.param(replace(graph_entry(), budget=None), id="no-budget"),
        pytest.param(replace(graph_entry(), budget=parse_budget("min")), id="lowest-budget"),
        pytest.param(replace(graph_entry(), budget=parse_budget("3KiB")), id="budget-in-bytes"),
        # names that a YAML reader could take for numbers, dates, booleans or nothing
        pytest.param(graph_entry("1234567890123456"), id="fingerprint-of-digits"),
        pytest.param(graph_entry("12e4567890123456"), id="fingerprint-like-a-float"),
        pytest.param(
            replace(graph_entry(), environment={"a": "null", "b": "1.50", "c": "on", "d": ": #"}),
            id="odd-environment",
        ),
        pytest.param(
            replace(
                graph_entry(),
                lengths=(length_entry("0f3a", 64, 1), length_entry("0f3a", 64, 4, peak=40_000)),
            ),
            id="two-shapes-of-one-length",
        ),
        pytest.param(
            replace(graph_entry(), lengths=(LengthEntry(64, ((1, 64),), Reference(5, 0.0), ()),)),
            id="eager-could-not-run-and-nothing-fits",
        ),
        pytest.param(
            replace(graph_entry(), lengths=(replace(length_entry("0f3a", 64), incomplete=True),)),
            id="best-so-far",
        ),
    ],
)
def test_what_is_written_is_read_back(tmp_path: Path, entry: GraphEntry) -> None:
    path = write_graph(tmp_path, DEVICE, MODEL, entry)
    assert path == model_path(tmp_path, DEVICE, MODEL)
    expected = ModelFile(MODEL, DEVICE, (entry,))
    assert read_file(path) == expected
    assert read_database(path) == read_database(tmp_path) == (expected,)
    assert read_file(path).path == path


def test_the_best_so_far_gives_way_and_never_takes_the_place_of_what_is_finished(
    tmp_path: Path,
) -> None:
    def written(length: LengthEntry) -> tuple[LengthEntry, ...]:
        write_graph(tmp_path, DEVICE, MODEL, replace(graph_entry(), lengths=(length,)))
        return read_file(model_path(tmp_path, DEVICE, MODEL)).graphs[0].lengths

    first, second, done = (length_entry("0f3a", 64, peak=peak) for peak in (9000, 8000, 7000))
    first, second = replace(first, incomplete=True), replace(second, incomplete=True)
    assert written(first) == (first,)
    assert written(second) == (second,)
    assert written(done) == (done,)
    assert written(first) == (done,)
    other = replace(length_entry("0f3a", 128), incomplete=True)
    assert written(other) == (done, other)


def test_a_folder_gives_all_files_or_those_of_one_device(tmp_path: Path) -> None:
    assert read_database(tmp_path) == ()
    write_graph(tmp_path, "cpu one", "a", graph_entry())
    write_graph(tmp_path, "cpu two", "a", graph_entry())
    write_graph(tmp_path, "cpu two", "b", graph_entry("beef"))
    assert [(f.device, f.model) for f in read_database(tmp_path)] == [
        ("cpu one", "a"), ("cpu two", "a"), ("cpu two", "b"),
    ]  # fmt: skip
    assert [f.model for f in read_database(tmp_path, "CPU-two")] == ["a", "b"]
    with pytest.raises(DatabaseError, match="no plan database at"):
        read_database(tmp_path / "nowhere")


def test_merging_replaces_the_same_shapes_and_keeps_all_else(tmp_path: Path) -> None:
    other = graph_entry("beef", (64,))
    write_graph(tmp_path, DEVICE, MODEL, other)
    write_graph(tmp_path, DEVICE, MODEL, graph_entry(lengths=(128, 512)))
    again = length_entry("0f3a", 512, peak=7777)
    batches = length_entry("0f3a", 512, batch=4)
    small = length_entry("0f3a", 32)
    newer = replace(
        graph_entry(lengths=()), environment={"torch": "2.14"}, lengths=(batches, small, again)
    )
    path = write_graph(tmp_path, DEVICE, MODEL, newer)
    old = graph_entry().environment
    kept = replace(length_entry("0f3a", 128), environment=old)
    merged = replace(newer, lengths=(small, kept, again, batches))
    assert read_file(path).graphs == (merged, other)
    # back where it was tuned first: what was tuned in between is of elsewhere now
    write_graph(tmp_path, DEVICE, MODEL, graph_entry(lengths=(64,)))
    (now, _) = read_file(path).graphs
    assert dict(now.environment) == dict(old)
    assert {(e.length, e.shapes[0][0]): e.environment for e in now.lengths} == {
        (32, 1): newer.environment, (64, 1): None, (128, 1): None,
        (512, 1): newer.environment, (512, 4): newer.environment,
    }  # fmt: skip


def _write_lengths(folder: str, fingerprint: str, lengths: range) -> None:
    for length in lengths:
        write_graph(Path(folder), DEVICE, MODEL, graph_entry(fingerprint, (length,)))


def test_four_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    # two share a graph, so that both lengths and graphs must survive
    jobs = [
        ("0f3a", range(100, 115)),
        ("0f3a", range(200, 215)),
        ("beef", range(100, 115)),
        ("cafe", range(100, 115)),
    ]
    writers = [SPAWN.Process(target=_write_lengths, args=(str(tmp_path), *job)) for job in jobs]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    path = model_path(tmp_path, DEVICE, MODEL)
    assert read_file(path).graphs == (
        graph_entry("0f3a", (*range(100, 115), *range(200, 215))),
        graph_entry("beef", tuple(range(100, 115))),
        graph_entry("cafe", tuple(range(100, 115))),
    )
    assert {file.suffix for file in path.parent.iterdir()} <= {".yaml", ".lock"}


def _large(peak: int) -> GraphEntry:
    """An entry whose file does not fit in one page, so that a half-written one is seen."""
    lengths = tuple(length_entry("0f3a", length, peak=peak) for length in range(100, 250))
    return replace(graph_entry(), lengths=lengths)


def _rewrite(folder: str, times: int) -> None:
    entries = [_large(9000), _large(8000)]
    for turn in range(times):
        write_graph(Path(folder), DEVICE, MODEL, entries[turn % 2])


def test_a_reader_meets_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = write_graph(tmp_path, DEVICE, MODEL, _large(9000))
    # the text alone is compared: reading it as YAML would take too long to meet a writer's moment
    texts = {path.read_bytes()}
    write_graph(tmp_path, DEVICE, MODEL, _large(8000))
    texts.add(path.read_bytes())
    writer = SPAWN.Process(target=_rewrite, args=(str(tmp_path), 6))
    writer.start()
    met: set[bytes] = set()
    while writer.is_alive():
        met.add(path.read_bytes())
    writer.join()
    assert writer.exitcode == 0
    assert len(texts) == 2
    assert met == texts
    assert sorted(file.suffix for file in path.parent.iterdir()) == [".lock", ".yaml"]


def test_a_writer_that_is_killed_leaves_a_whole_file_and_no_lock(tmp_path: Path) -> None:
    path = write_graph(tmp_path, DEVICE, MODEL, _large(9000))
    before = path.stat().st_mtime_ns
    writer = SPAWN.Process(target=_rewrite, args=(str(tmp_path), 1000))
    writer.start()
    while path.stat().st_mtime_ns == before:
        assert writer.is_alive()
        time.sleep(0.01)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    (found,) = read_database(tmp_path)
    assert found.graphs[0] in (_large(9000), _large(8000))
    write_graph(tmp_path, DEVICE, MODEL, graph_entry("beef"))
    (found,) = read_database(tmp_path)
    assert [graph.fingerprint for graph in found.graphs] == ["0f3a", "beef"]


def _good(folder: Path) -> str:
    return write_graph(folder / "good", DEVICE, MODEL, graph_entry()).read_text(encoding="utf-8")


def _swapped(old: str, new: str) -> Callable[[str], bytes]:
    def change(good: str) -> bytes:
        assert old in good
        return good.replace(old, new, 1).encode()

    return change


def _without(*keys: str) -> Callable[[str], bytes]:
    """The file without what stands at this path of keys."""

    def change(good: str) -> bytes:
        data = yaml.safe_load(good)
        inner = data
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        return yaml.safe_dump(data).encode()

    return change


def _truncated(good: str) -> bytes:
    return good[: good.rindex("[")].encode() + b"[1, 2"


def _bomb(good: str) -> bytes:
    """Lists of lists by alias: six levels are a million texts when written out."""
    levels = ["&x0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    levels += [f"&x{k} [{', '.join([f'*x{k - 1}'] * 10)}]" for k in range(1, 6)]
    lines = [f"a{k}: {level}" for k, level in enumerate(levels)]
    return ("\n".join([*lines, good.replace("schema: 3", "schema: *x5")])).encode()


DAMAGES = [
    pytest.param(_truncated, "line", id="truncated"),
    pytest.param(lambda good: good.encode()[:-20] + b"\0\0\0", "damaged", id="control-characters"),
    pytest.param(lambda _: b"", "schema 3", id="empty"),
    pytest.param(lambda _: b"- 1\n- 2\n", "schema 3", id="a-list"),
    pytest.param(_swapped("schema: 3", "schema: 4"), "upgrade autochunk", id="a-later-schema"),
    pytest.param(_swapped("schema: 3", "schema: 0"), "found 0", id="another-schema"),
    pytest.param(_without("schema"), "found None", id="no-schema"),
    pytest.param(_without("graphs"), "the head", id="no-graphs"),
    pytest.param(_without("model"), "the head", id="no-model"),
    pytest.param(_without("device"), "the head", id="no-device"),
    pytest.param(_without("graphs", "0f3a", "regions"), "graph 0f3a", id="no-regions"),
    pytest.param(_without("graphs", "0f3a", "regions", "r0"), "graph 0f3a", id="no-such-region"),
    pytest.param(_without("graphs", "0f3a", "lengths"), "graph 0f3a", id="no-lengths"),
    pytest.param(_swapped("eager: {", "eagre: {"), "graph 0f3a", id="no-eager"),
    pytest.param(_swapped("[2250, ", "["), "graph 0f3a", id="a-short-row"),
    pytest.param(_swapped("[2250, ", "[much, "), "graph 0f3a", id="a-text-for-a-number"),
    pytest.param(_swapped("[2250, ", "[.inf, "), "graph 0f3a", id="an-infinite-peak"),
    pytest.param(_swapped("[2250, ", "[.nan, "), "graph 0f3a", id="no-number-for-a-peak"),
    pytest.param(_swapped("r1: 16", "r1: 0"), "graph 0f3a", id="a-chunk-of-nothing"),
    pytest.param(_swapped("r1: 16", "r1: 2.7"), "graph 0f3a", id="a-chunk-of-a-fraction"),
    pytest.param(_swapped("r1: 16", "r1: {size: 4, fused: 1}"), "lacks", id="an-unknown-choice"),
    pytest.param(_swapped("r1: 16", "r1: {inner: {}}"), "graph 0f3a", id="a-choice-of-no-size"),
    pytest.param(
        _swapped("r1: 16", "r1: {size: 4, inner: {r0: 1, r1: 1}}"), "graph 0f3a",
        id="inner-regions-that-leave",
    ),
    pytest.param(_swapped("at: [", "at: [], x: ["), "graph 0f3a", id="a-class-that-is-nowhere"),
    pytest.param(_swapped("budget: 0.5", "budget: 1.5"), "graph 0f3a", id="a-budget-above-all"),
    pytest.param(_swapped("dims: ", "dims: 2-"), "graph 0f3a", id="malformed-regions"),
    # these fail while plain values are made of the text, before anything is looked up
    pytest.param(_swapped("float32", "2026-13-45"), "damaged", id="a-date-that-is-none"),
    pytest.param(_swapped("2250", "9" * 5000), "damaged", id="a-number-too-long"),
    pytest.param(
        _swapped("float32", "[" * 5000 + "]" * 5000), "damaged", id="nested-too-deep"
    ),
    pytest.param(
        _swapped("float32", "\n  " + "- " * 100_000), "damaged", id="nested-by-indicators"
    ),
    pytest.param(
        lambda good: "\n".join(" " * k + "a:" for k in range(2500)).encode(), "damaged",
        id="nested-by-indentation",
    ),
    pytest.param(lambda good: b"[" + b"1," * 450_000 + b"1]", "values", id="too-many-values"),
    pytest.param(
        _swapped("nodes: ", "nodes: 0..900000,"), "graph 0f3a", id="more-nodes-than-dimensions"
    ),
    pytest.param(
        _swapped("at: [", f"at: [{', '.join(map(str, range(0, 900_000, 9)))}, "), "graph 0f3a",
        id="more-occurrences-than-fit",
    ),
    pytest.param(_swapped("float32", "!!python/name:os.system"), "line", id="a-tag"),
    pytest.param(lambda good: b"\xff\xfe\xff" + good.encode(), "cannot be read", id="no-text"),
    pytest.param(
        lambda good: good.replace("{torch: ", "{x: &x 1, y: *x, torch: ").encode()
        if "{torch: " in good
        else good.replace("torch: ", "x: &x v\n      y: *x\n      torch: ").encode(),
        "alias",
        id="an-alias",
    ),
    pytest.param(_bomb, "alias", id="alias-bomb"),
]


@pytest.mark.parametrize(("damage", "place"), DAMAGES)
def test_a_damaged_file_is_named_and_left_as_it_is(
    tmp_path: Path, damage: Callable[[str], bytes], place: str
) -> None:
    path = model_path(tmp_path, DEVICE, MODEL)
    path.parent.mkdir(parents=True)
    content = damage(_good(tmp_path))
    path.write_bytes(content)
    with pytest.raises(DatabaseError) as caught:
        read_file(path)
    message = str(caught.value)
    assert str(path) in message
    assert place in message
    assert len(message) < 2000, "a message is for a person"
    with pytest.raises(DatabaseError):
        write_graph(tmp_path, DEVICE, MODEL, graph_entry("beef"))
    assert path.read_bytes() == content
    assert {file.suffix for file in path.parent.iterdir()} <= {".yaml", ".lock"}


def test_a_file_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    path = write_graph(tmp_path, DEVICE, MODEL, graph_entry())
    with path.open("ab") as file:
        file.truncate(9 * 2**20)
    with pytest.raises(DatabaseError, match="8388608 bytes") as caught:
        read_file(path)
    assert str(path) in str(caught.value)
    with pytest.raises(DatabaseError, match="8388608 bytes"):
        write_graph(tmp_path, DEVICE, MODEL, graph_entry())
    assert path.stat().st_size == 9 * 2**20


def test_a_place_that_cannot_be_written_is_a_database_error(tmp_path: Path) -> None:
    blocked = tmp_path / "plans"
    blocked.write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(DatabaseError) as caught:
        write_graph(blocked, DEVICE, MODEL, graph_entry())
    assert str(blocked) in str(caught.value)


@pytest.mark.parametrize(
    "plan",
    [
        Plan("0f3a", (Choice(ATTENTION, 8, (Choice(WITHIN, 2), Choice(LAST, 1))),)),
        Plan("0f3a", (Choice(ATTENTION, 8, (Choice(WITHIN, 2, (Choice(FIRST, 1),)),)),)),
        Plan("0f3a", (Choice(MASKED, 1), Choice(ATTENTION, 8, compiled=True))),
        Plan("0f3a", (Choice(ATTENTION, 8),), rewrites=("sdpa", "norm")),
        Plan("0f3a", rewrites=("sdpa",)),
        Plan("0f3a", (Choice(MASKED, 1), Choice(ATTENTION, 8, compiled=True)), (), True),
        Plan("0f3a", (Choice(ATTENTION, 8),), stretches=True),
        Plan("0f3a", stretches=True),
    ],
    ids=[
        "nested", "nested-twice", "bodies-alone", "rewritten", "rewritten-alone", "in-part",
        "stretches-alone", "without-loops",
    ],
)
def test_every_plan_has_a_form(tmp_path: Path, plan: Plan) -> None:
    made = PlanRow(plan, 10, 10, 1.0, 1.0, 1.0, 1.0)
    lengths = (LengthEntry(64, ((1, 64),), Reference(10, 1.0), (made,)),)
    entry = replace(graph_entry(), lengths=lengths)
    assert read_file(write_graph(tmp_path, DEVICE, MODEL, entry)).graphs == (entry,)
    assert pickle.loads(pickle.dumps(entry)) == entry


def test_files_of_schema_1_are_read_and_written_as_today(tmp_path: Path) -> None:
    path = write_graph(tmp_path, DEVICE, MODEL, graph_entry())
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("schema: 3", "schema: 1"), encoding="utf-8")
    assert read_file(path).graphs == (graph_entry(),)
    write_graph(tmp_path, DEVICE, MODEL, graph_entry())
    assert path.read_text(encoding="utf-8") == text


def test_in_schema_2_stretches_were_compiled_where_bodies_were(tmp_path: Path) -> None:
    plan = Plan("0f3a", (Choice(MASKED, 1), Choice(ATTENTION, 8))).as_compiled()
    row = PlanRow(plan, 10, 10, 1.0, 1.0, 1.0, 1.0)
    entry = replace(
        graph_entry(), lengths=(LengthEntry(64, ((1, 64),), Reference(10, 1.0), (row,)),)
    )
    path = write_graph(tmp_path, DEVICE, MODEL, entry)
    text = path.read_text(encoding="utf-8")
    assert "stretches" not in text
    path.write_text(text.replace("schema: 3", "schema: 2"), encoding="utf-8")
    assert read_file(path).graphs == (entry,)


@pytest.mark.parametrize("wrong", ["3", "yes please", "[true]"])
def test_stretches_are_true_or_false(tmp_path: Path, wrong: str) -> None:
    row = PlanRow(Plan("0f3a", stretches=True), 10, 10, 1.0, 1.0, 1.0, 1.0)
    entry = replace(
        graph_entry(), lengths=(LengthEntry(64, ((1, 64),), Reference(10, 1.0), (row,)),)
    )
    path = write_graph(tmp_path, DEVICE, MODEL, entry)
    text = path.read_text(encoding="utf-8")
    assert "stretches: true" in text
    path.write_text(text.replace("stretches: true", f"stretches: {wrong}"), encoding="utf-8")
    with pytest.raises(DatabaseError, match="stretches is true or false"):
        read_file(path)


def test_what_a_writer_left_that_died_is_cleared_away(tmp_path: Path) -> None:
    path = write_graph(tmp_path, DEVICE, MODEL, graph_entry())
    left = path.with_name(f".{path.name}.8fj2k1")
    left.write_text("schema", encoding="utf-8")
    beside = path.with_name(f".other-{path.name}.8fj2k1")
    beside.write_text("schema", encoding="utf-8")
    write_graph(tmp_path, DEVICE, MODEL, graph_entry("beef"))
    assert not left.exists() and beside.exists()


def test_a_plan_is_looked_up_at_its_shapes_then_at_larger_ones() -> None:
    entry = replace(
        graph_entry(),
        lengths=(
            length_entry("0f3a", 1024),
            length_entry("0f3a", 64),
            length_entry("0f3a", 256, batch=4),
            length_entry("0f3a", 256),
            length_entry("0f3a", 512),
        ),
    )

    def places(*shapes: tuple[int, ...]) -> list[str]:
        return [source for source, _ in entry.candidates(shapes)]

    larger = ", the next larger length"
    assert places((1, 256), (1, 3, 256)) == [
        "tuned at 256", f"tuned at 256{larger}", f"tuned at 512{larger}", f"tuned at 1024{larger}",
    ]  # fmt: skip
    assert places((1, 300), (1, 3, 300)) == [f"tuned at 512{larger}", f"tuned at 1024{larger}"]
    # larger in every dimension, so neither half of the batch nor a longer one at batch 1 serves
    assert places((3, 100), (3, 3, 100)) == [f"tuned at 256{larger}"]
    assert places((3, 300), (3, 3, 300)) == []
    assert places((1, 1025), (1, 3, 1025)) == []
    assert places((1, 100), (1, 3, 2000)) == []
    assert places((1, 256)) == []
    exact = next(entry.candidates(((1, 256), (1, 3, 256))))
    assert exact == ("tuned at 256", length_entry("0f3a", 256).frontier)


def test_the_eager_peak_is_known_at_tuned_shapes_alone() -> None:
    entry = replace(graph_entry(), lengths=(length_entry("0f3a", 64, peak=123),))
    assert entry.eager_peak(((1, 64), (1, 3, 64))) == 123
    assert entry.eager_peak(((1, 63), (1, 3, 63))) is None


def test_what_could_not_be_read_back_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = graph_entry()
    path = write_graph(tmp_path, "cpu x", "m", entry)
    before = path.read_bytes()
    values = sum(map(before.count, (b",", b":", b"[", b"{", b"\n")))
    monkeypatch.setattr("tuner.safe_yaml.MOST_VALUES", values)
    assert read_file(path).graphs == (entry,)
    with pytest.raises(DatabaseError, match="could not be read back"):
        write_graph(tmp_path, "cpu x", "m", replace(entry, fingerprint=f"{1:016x}"))
    assert path.read_bytes() == before


def test_a_finished_entry_of_another_torch_does_not_stand_before_the_best_so_far() -> None:
    entry = graph_entry()
    old = replace(entry, environment={**entry.environment, "torch": "2.0.0"})
    begun = replace(
        entry, environment={**entry.environment, "torch": "2.1.0"},
        lengths=tuple(replace(one, incomplete=True) for one in entry.lengths),
    )  # fmt: skip
    merged = replace_lengths(old, begun)
    assert all(one.incomplete for one in merged.lengths)
    same = replace(old, environment=begun.environment)
    assert not any(one.incomplete for one in replace_lengths(same, begun).lengths)
