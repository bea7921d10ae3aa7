"""The ledger: what is appended is read back, whatever happens to its writer."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from search_space.errors import LedgerError
from tuner.ledger import Ledger, read_ledger

SPAWN = multiprocessing.get_context("spawn")
GOOD = b'{"kind":"a","n":1}\n{"kind":"b","n":2}\n{"kind":"c","n":3}\n'

ROWS: list[dict[str, Any]] = [
    {},
    {"n": 1, "x": 0.1, "nothing": None, "yes": True},
    {"text": "line\nbreak, \u00e9, \u2028, \U0001f600, \x00 and \"quotes\""},
    {"nested": {"list": [1, [2, {"deep": []}]], "empty": {}}},
    {"long": "x" * 100_000},
    {"large": 2**70, "small": 5e-324, "third": 1 / 3},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "trial" / "ledger.jsonl"


def numbers(path: Path) -> list[int]:
    return [record["n"] for record in read_ledger(path)]


def stripped(path: Path) -> list[dict[str, Any]]:
    """The records without their times."""
    return [{k: v for k, v in record.items() if k != "at"} for record in read_ledger(path)]


def test_what_is_appended_is_read_back(path: Path) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    with Ledger(path) as ledger:
        for row in ROWS:
            ledger.append("made", row)
    assert stripped(path) == [{"kind": "made", **row} for row in ROWS]
    times = [datetime.fromisoformat(record["at"]) for record in read_ledger(path)]
    assert times == sorted(times)
    assert before <= times[0] and times[-1] <= datetime.now(UTC)


def test_each_record_is_one_line(path: Path) -> None:
    with Ledger(path) as ledger:
        for row in ROWS:
            ledger.append("made", row)
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == len(ROWS)


def test_a_ledger_is_opened_again_and_goes_on(path: Path) -> None:
    for n in range(4):
        with Ledger(path) as ledger:
            ledger.append("made", {"n": n})
    assert numbers(path) == [0, 1, 2, 3]


def test_a_new_ledger_is_empty(path: Path) -> None:
    with Ledger(path):
        assert list(read_ledger(path)) == []


def test_what_cannot_be_written_leaves_no_trace(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.append("made", {"n": 1})
        with pytest.raises(TypeError):
            ledger.append("made", {"n": object()})
        ledger.append("made", {"n": 2})
    assert numbers(path) == [1, 2]


def test_a_record_is_on_disk_when_append_returns(path: Path) -> None:
    with Ledger(path) as ledger:
        for n in range(5):
            ledger.append("made", {"n": n})
            assert numbers(path) == list(range(n + 1))


TORN = [b"{", b'{"kind":"d"', b'{"kind":"d","n":4}', b"\xff\x00", b"x" * 70_000]


@pytest.mark.parametrize("tail", TORN, ids=lambda tail: repr(tail[:12]))
def test_a_torn_last_line_is_cut_off(tail: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(GOOD + tail)
    assert numbers(path) == [1, 2, 3], "a reader leaves it out"
    assert path.read_bytes() == GOOD + tail, "and does not touch it"
    with Ledger(path) as ledger:
        assert path.read_bytes() == GOOD
        ledger.append("e", {"n": 5})
    assert numbers(path) == [1, 2, 3, 5]


@pytest.mark.parametrize("tail", TORN, ids=lambda tail: repr(tail[:12]))
def test_a_ledger_of_one_torn_line_starts_anew(tail: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(tail)
    with Ledger(path) as ledger:
        ledger.append("e", {"n": 5})
    assert numbers(path) == [5]


def test_wherever_the_last_line_is_torn_the_others_stay(path: Path) -> None:
    path.parent.mkdir(parents=True)
    start = GOOD.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(start, len(GOOD)):
        path.write_bytes(GOOD[:end])
        with Ledger(path):
            pass
        assert path.read_bytes() == GOOD[:start]


DAMAGE: dict[str, bytes] = {
    "half a record": b'{"kind":"b","n"\n',
    "no JSON": b"some words\n",
    "an empty line": b"\n",
    "no mapping": b"[1,2]\n",
    "no kind": b'{"n":2}\n',
    "bytes of no text": b"\xff\xfe\xfa\n",
    "zeros": b"\x00" * 40 + b"\n",
    "two records": b'{"kind":"a","n":1}{"kind":"b","n":2}\n',
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_elsewhere_is_an_error_and_nothing_is_changed(name: str, path: Path) -> None:
    first, _, third = GOOD.splitlines(keepends=True)
    data = first + DAMAGE[name] + third
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    with pytest.raises(LedgerError, match=r"line 2\b") as caught:
        Ledger(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == data
    with pytest.raises(LedgerError, match=r"line 2\b"):
        list(read_ledger(path))


def test_a_damaged_ledger_keeps_its_torn_line_too(path: Path) -> None:
    # whoever mends the file by hand may want all of it
    data = GOOD + b"damaged\n" + GOOD + b'{"kind":"d","n"'
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    with pytest.raises(LedgerError, match="line 4"):
        Ledger(path)
    assert path.read_bytes() == data


def test_damage_in_the_last_whole_line_is_an_error(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(GOOD + b"damaged\n")
    with pytest.raises(LedgerError, match="line 4"):
        Ledger(path)


def test_a_reader_gives_what_stands_before_the_damage(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(GOOD + b"damaged\n")
    reader = read_ledger(path)
    assert [next(reader)["n"] for _ in range(3)] == [1, 2, 3]
    with pytest.raises(LedgerError):
        next(reader)


def test_a_damaged_ledger_does_not_stay_locked(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged\n")
    with pytest.raises(LedgerError, match="damaged"):
        Ledger(path)
    path.write_bytes(GOOD)
    with Ledger(path) as ledger:
        ledger.append("d", {"n": 4})
    assert numbers(path) == [1, 2, 3, 4]


def test_a_second_writer_is_refused_while_the_first_is_open(path: Path) -> None:
    with Ledger(path) as first:
        first.append("made", {"n": 1})
        with pytest.raises(LedgerError, match="another campaign is writing") as caught:
            Ledger(path)
        assert str(path) in str(caught.value)
        first.append("made", {"n": 2})
    with Ledger(path) as second:
        second.append("made", {"n": 3})
    assert numbers(path) == [1, 2, 3]


def test_a_refused_writer_does_not_cut_what_is_being_written(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.append("made", {"n": 1})
        with path.open("ab") as file:
            file.write(b'{"kind":"half')
        data = path.read_bytes()
        with pytest.raises(LedgerError):
            Ledger(path)
        assert path.read_bytes() == data


def test_an_error_while_it_is_open_releases_the_ledger(path: Path) -> None:
    with pytest.raises(TypeError), Ledger(path) as ledger:
        ledger.append("made", {"n": 1, "not JSON": object()})
    with Ledger(path) as again:
        again.append("made", {"n": 2})
    assert numbers(path) == [2]


def test_two_ledgers_do_not_mind_each_other(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a" / "ledger.jsonl"), Ledger(tmp_path / "b" / "ledger.jsonl") as other:
        other.append("made", {"n": 1})
    assert numbers(tmp_path / "b" / "ledger.jsonl") == [1]


def write_until_killed(path: Path, opened: Event) -> None:
    """Appends records of very different sizes for as long as it lives."""
    with Ledger(path) as ledger:
        n = 0
        while True:
            ledger.append("made", {"n": n, "text": "x" * (n % 7) * 20_000})
            n += 1
            if n == 20:
                opened.set()


def test_a_killed_writer_loses_at_most_the_line_it_was_writing(path: Path) -> None:
    known = 0
    for _ in range(2):
        opened = SPAWN.Event()
        writer = SPAWN.Process(target=write_until_killed, args=(path, opened), daemon=True)
        writer.start()
        try:
            assert opened.wait(60)
            with pytest.raises(LedgerError, match="another campaign"):
                Ledger(path)
            # readers need no lock, and see whole records alone
            seen: list[int] = []
            deadline = time.monotonic() + 10
            while len(set(seen)) < 3 and time.monotonic() < deadline:
                found = numbers(path)[known:]
                assert found == list(range(len(found)))
                seen.append(len(found))
            assert seen == sorted(seen)
            assert len(set(seen)) >= 3, "the writer writes on while it is read"
        finally:
            assert writer.pid is not None
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
        assert writer.exitcode == -signal.SIGKILL
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        records = numbers(path)
        assert len(records) == whole.count(b"\n")
        assert records[known:] == list(range(len(records) - known))
        assert len(records) - known >= seen[-1]
        with Ledger(path):
            assert path.read_bytes() == whole
        known = len(records)


def test_records_of_any_kind_are_json(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.append("made", {"n": 1})
    (line,) = path.read_bytes().splitlines()
    assert list(json.loads(line)) == ["kind", "at", "n"]


def test_a_place_that_cannot_be_used_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(LedgerError, match="cannot be"):
        Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(LedgerError, match="cannot be read"):
        list(read_ledger(tmp_path / "ledger.jsonl"))
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    with pytest.raises(LedgerError, match=r"cannot be used.*name another output folder"):
        Ledger(file / "ledger.jsonl")
