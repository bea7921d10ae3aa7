"""A campaign's report: read from the ledger alone, one page, nothing from outside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from search_space.errors import ConfigError, LedgerError
from tests.tuner.report_ledger import (
    EVIL,
    MIB,
    analysis,
    baseline,
    ok,
    plan,
    prediction,
    write_ledger,
)
from tuner.cli import main
from tuner.ledger import Ledger
from tuner.report.chart import Axis, Chart, Kind, Point, Rule, Series
from tuner.report.page import charts, render, write_report
from tuner.report.png import draw_png
from tuner.report.read import read_run
from tuner.report.search_tables import op_rates_table
from tuner.report.sizes import size_text
from tuner.report.svg import STYLE, draw_svg
from tuner.report.tables import headlines, speed_cell
from tuner.report.values import plan_key

VOID = {"meta", "br", "img", "link", "hr", "input"}
PAGE_STYLE = STYLE.with_name("page.css")


class Page(HTMLParser):
    """What an HTML page holds; tags must match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []
        self.text: list[str] = []
        self.headings: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has a handler"
            match name:
                case "id":
                    self.ids.append(value or "")
                case "href":
                    self.links.append(value or "")
                case "src" | "srcset" | "action" | "data":
                    self.outside.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("run")
    write_ledger(found)
    return found


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(render(read_run(folder)))


def test_the_page_needs_nothing_from_outside(page: Page) -> None:
    assert page.tags["script"] == 0
    assert page.tags["link"] == 0
    assert page.outside == []
    assert all(link.startswith(("#", "report-figures/")) for link in page.links)
    style = STYLE.read_text(encoding="utf-8") + PAGE_STYLE.read_text(encoding="utf-8")
    assert "url(" not in style
    assert "@import" not in style


def test_every_inner_link_leads_somewhere_and_ids_are_unique(page: Page) -> None:
    assert max(Counter(page.ids).values()) == 1
    inner = {link[1:] for link in page.links if link.startswith("#")}
    assert inner <= set(page.ids)
    assert len(inner) > 6


def test_what_users_write_is_shown_as_text(folder: Path, page: Page) -> None:
    text = "".join(page.text)
    for words in (f"blocks.{EVIL}", f"no memory {EVIL}", f"odd.{EVIL}"):
        assert words in text
    for path in sorted((folder).glob("*-figures/*.svg")):
        assert "<script" not in path.read_text(encoding="utf-8")


def test_a_busy_device_is_told(page: Page) -> None:
    assert "Others had the device for at most 31% of the time" in "".join(page.text)


def test_a_failure_tells_which_regions_ran_in_which_chunks(page: Page) -> None:
    text = "".join(page.text)
    assert f"plan {plan_key(plan(2))}: 3 x blocks.{EVIL} by 2" in text


def test_every_figure_has_its_numbers_in_a_table(page: Page) -> None:
    # two charts of the finished length, one of the other, and two of predictions
    assert page.tags["figure"] == page.tags["svg"] == 5
    assert page.tags["summary"] >= 4
    assert page.tags["table"] >= 10


def test_budgets_come_first_with_what_they_save(page: Page, folder: Path) -> None:
    text = " ".join(" ".join(page.text).split())
    assert page.headings[:5] == [
        "Which plan for which budget", "By length", "How they were found", "Failures", "Setup",
    ]  # fmt: skip
    (first, second) = headlines(read_run(folder))
    assert first == (
        "Length 512, budget 0.5: 42.0 MiB in place of 100.0 MiB (58 % less), at 0.70 times eager's "
        "time (0.69 to 0.71)."
    )
    assert second.startswith("Length 1024, budget 0.5: 30.0 MiB")
    assert "Not finished." in text
    assert "no confirmed plan" in text


def test_the_last_measurement_of_a_plan_stands_and_the_first_prediction(folder: Path) -> None:
    one = read_run(folder).lengths["", 512]
    run = one.runs[plan_key(plan(16))]
    assert run.ratio is not None
    assert run.ratio.median == pytest.approx(0.75)
    assert run.expected is not None
    assert run.expected.ratio == 0.8
    assert one.ended == {"ok": 3, "oom": 2, "crash": 1}
    assert one.alone["abcdef012345"] == {16: 0.5, 8: 1.5}, "of passes as they are"


def test_what_kinds_of_op_were_measured_to_cost_is_a_table_of_its_own(folder: Path) -> None:
    run = read_run(folder)
    assert set(run.ceilings) == {"launch_s", "copy_bytes_per_s"}
    assert op_rates_table(run).rows == ((EVIL, "1.25", "2.000", "3.0"),)
    assert "What kinds of op cost" in render(run)
    run.op_rates = {}  # as on a GPU, and in ledgers of before there were any
    assert "What kinds of op cost" not in render(run)

def test_a_length_without_an_end_is_judged_by_its_runs(folder: Path) -> None:
    run = read_run(folder)
    one = run.lengths["", 1024]
    assert one.result is None
    assert not run.complete
    half, lowest, impossible = one.served(run.budgets)
    assert half.row is not None
    assert half.row.peak_bytes == 30 * MIB
    assert lowest.row == half.row
    assert impossible.row is None


def test_unknown_and_damaged_records_are_counted_and_a_torn_tail_ignored(tmp_path: Path) -> None:
    path = write_ledger(tmp_path)
    before = read_run(path)
    with Ledger(path) as ledger:
        ledger.append("begin", {"keys": ["1"]})
        ledger.append("plan", {"length": 512, "status": "ok"})
        ledger.append("baseline", {**baseline(512), "samples": {}})
        ledger.append("search", {"length": 512, "round": 0, "trials": [[1]]})
    with path.open("ab") as file:
        file.write(b'{"kind": "plan", "len')
    after = read_run(path)
    assert after.kinds["begin"] == 1
    assert after.passed_over == {"plan": 1, "baseline": 1, "search": 1}
    assert after.lengths["", 512].runs == before.lengths["", 512].runs
    assert after.lengths["", 512].rounds == before.lengths["", 512].rounds
    assert "begin" in render(after)


def test_a_finalist_that_fails_later_keeps_its_first_measurement(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.append("plan", ok(16, 0.9))
        ledger.append("plan", {**ok(16, 0.9), "status": "timeout", "reason": "too long"})
    one = read_run(tmp_path).lengths["", 512]
    assert one.runs[plan_key(plan(16))].status == "ok"
    assert one.ended == {"ok": 1, "timeout": 1}
    assert ("plan " + plan_key(plan(16)), "timeout", "too long") in one.failures


def test_targets_are_told_apart_and_a_refused_one_is_a_failure(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        config = {"budgets": [0.5], "seq_lens": [512], "model": {"id": "m", "targets": ["b.*"]}}
        ledger.append("campaign", {"config": config})
        for target in ("b.0", "b-0"):  # names that make one file name
            ledger.append("target", {"target": target})
            ledger.append("baseline", baseline(512))
            ledger.append("plan", ok(16 if target == "b.0" else 32, 0.9))
        ledger.append("target", {"target": "b.7", "status": "refused", "reason": "too little"})
    run = read_run(tmp_path)
    peaks = {key: [row.peak_bytes for row in one.frontier] for key, one in run.lengths.items()}
    assert peaks == {("b.0", 512): [26 * MIB], ("b-0", 512): [42 * MIB]}
    page = Page(render(run))
    text = " ".join(page.text)
    assert "b.0, length 512, budget 0.5: 26.0 MiB" in text
    assert "too little" in text
    assert "targets=['b.*']" in text
    assert max(Counter(page.ids).values()) == 1
    assert len({chart.name for chart in charts(run)}) == len(charts(run))
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.append("target", {"target": "b.7"})  # a later session, which can do it
    assert set(run.refused) == {"b.7"} and not read_run(tmp_path).refused


def test_a_ledger_of_a_campaign_that_has_just_begun_gives_a_page(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        config = {"campaign": "new", "budgets": [0.5], "seq_lens": [8]}
        ledger.append("campaign", {"config": config})
    text = " ".join(Page(render(read_run(tmp_path))).text)
    assert "No plan was confirmed by a real run so far." in text
    assert "Not finished." in text


def test_files_are_written_beside_the_page(tmp_path: Path) -> None:
    write_ledger(tmp_path)
    written = write_report(tmp_path)
    assert written.page == tmp_path / "report.html"
    assert written.png
    folder = tmp_path / "report-figures"
    names = {path.name for path in folder.iterdir()}
    stems = {"frontier-length-512", "memory-length-512", "frontier-length-1024", "predicted-peak",
             "predicted-time"}  # fmt: skip
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")}
    assert {path.name for path in written.figures} == names
    page = Page(written.page.read_text(encoding="utf-8"))
    for link in page.links:
        assert link.startswith("#") or (tmp_path / link).is_file()
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_sweep_gets_a_page_over_the_pages_of_its_campaigns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night, other = tmp_path / "night", tmp_path / "elsewhere" / "night.html"
    with Ledger(night / "new" / "ledger.jsonl") as ledger:
        config = {"model": {"id": "just begun"}, "budgets": [0.5], "seq_lens": [8]}
        ledger.append("campaign", {"config": config})
    (night / "at the door").mkdir()
    (night / "at the door" / "ledger.jsonl").touch()
    assert main(["report", str(night)]) == 0
    (night / "large one").mkdir()
    write_ledger(night / "large one")
    assert main(["report", str(night), "--output", str(other), "--study"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("report written") == 2
    assert "no studies of new" in printed.err
    assert (night / "large one" / "study.journal").is_file()
    for path, rows in ((night / "report.html", 1), (other, 7)):
        page = Page(path.read_text(encoding="utf-8"))
        assert page.tags["tr"] == 1 + rows
        assert "just begun" in "".join(page.text)
        assert "Without records so far: at the door." in "".join(page.text)
        for link in page.links:
            name, _, anchor = unquote(link).partition("#")
            found = Page((path.parent / name).read_text(encoding="utf-8"))
            assert not anchor or anchor in found.ids


def test_of_a_model_that_was_changed_the_last_graph_counts(tmp_path: Path) -> None:
    old, new = "0" * 16, "f" * 16

    def session(ledger: Ledger, graph: str, *chunk_sizes: int) -> None:
        ledger.append("analysis", {**analysis(512), "graph": graph})
        ledger.append("baseline", {**baseline(512), "graph": graph})
        for size in chunk_sizes:
            ledger.append("prediction", prediction(size, 1.0))  # (says no graph)
            ledger.append("plan", {**ok(size, 1.0), "graph": graph})

    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        session(ledger, old, 8, 16, 32)
        session(ledger, new, 8)
        run = read_run(tmp_path)
        (one,) = run.lengths.values()
        assert (one.graph, len(one.timed), len(one.expected)) == (new, 1, 1)
        text = (write_report(tmp_path).page).read_text(encoding="utf-8")
        assert "3 real runs of other graphs are left out" in text
        # changed back, what was measured of it counts again
        ledger.append("plan", {**ok(64, 1.0), "graph": old})
    run = read_run(tmp_path)
    (one,) = run.lengths.values()
    assert (one.graph, len(one.timed)) == (old, 4)
    assert list(run.set_aside) == [("", 512, new)]


@pytest.mark.parametrize(
    ("name", "words"),
    [("none", "there is no ledger"), ("campaign.yaml", "campaign file"), ("empty", "no records"),
     ("sweep", "no ledger in")],
)  # fmt: skip
def test_mistakes_get_one_message(
    name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "campaign.yaml").write_text("campaign: x\n", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "ledger.jsonl").touch()
    (tmp_path / "sweep" / "one").mkdir(parents=True)
    (tmp_path / "sweep" / "one" / "ledger.jsonl").touch()
    assert main(["report", str(tmp_path / name)]) == 2
    assert words in capsys.readouterr().err


def test_damage_before_the_last_line_is_an_error(tmp_path: Path) -> None:
    path = write_ledger(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{nonsense\n", *lines[1:]]))
    with pytest.raises(LedgerError, match="line 2"):
        read_run(path)


def test_a_page_that_cannot_be_written_names_the_place(tmp_path: Path) -> None:
    write_ledger(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--output"):
        write_report(tmp_path, tmp_path / "file" / "report.html")


def test_a_speed_is_told_apart_from_noise() -> None:
    assert speed_cell(0.7, 0.69, 0.72).text == "30 % faster"
    assert speed_cell(1.2, 1.1, 1.3).text == "20 % slower"
    assert speed_cell(0.9, 0.7, 1.05).text == "same, within noise"
    assert speed_cell(0.99, 0.985, 0.995).text == "same, within noise"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.0 KiB"), (1900, "1.9 KiB"), (27.5 * MIB, "27.5 MiB"), (3 * 2**30, "3.00 GiB")],
)
def test_sizes_are_for_people(count: float, text: str) -> None:
    assert size_text(count) == text


def chart(x: Axis, y: Axis) -> Chart:
    points = (Point(x.low, y.low), Point(x.high, y.high, y.low, y.high, EVIL))
    kinds: tuple[Kind, ...] = ("points", "line", "area", "cloud")
    return Chart(
        "one", EVIL, EVIL, x, y,
        tuple(Series(f"{EVIL} {kind}", points, kind, tone=k, marker=k)
              for k, kind in enumerate(kinds)),
        (Rule("vertical", x.high, EVIL), Rule("horizontal", y.low, EVIL), Rule("diagonal")),
    )  # fmt: skip


CHARTS = (
    chart(Axis(EVIL, 0.0, 7.0), Axis("y", 0.0, 1e-3)),
    chart(Axis("x", 0.03, 4000.0, log=True), Axis("y", 0.9, 1.1, log=True)),
)


@pytest.mark.parametrize("one", CHARTS, ids=("linear", "log"))
def test_a_drawing_is_xml_that_stays_inside_its_frame(one: Chart) -> None:
    root = ElementTree.fromstring(draw_svg(one, standalone=True))
    _, _, width, height = (float(value) for value in root.attrib["viewBox"].split())
    for item in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert -0.01 <= float(item.attrib.get(name, 0)) <= width + 0.01
        for name in ("y", "y1", "y2", "cy"):
            assert -0.01 <= float(item.attrib.get(name, 0)) <= height + 0.01
    assert not [item for item in root.iter() if item.tag.endswith("script")]
    assert EVIL in root.attrib["aria-label"]


@pytest.mark.parametrize("one", CHARTS, ids=("linear", "log"))
def test_a_chart_is_drawn_as_png(one: Chart, tmp_path: Path) -> None:
    draw_png(one, tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "axis",
    [Axis("", 0, 97), Axis("", -3, 4), Axis("", 1e-6, 3e-6), Axis("", 0.61, 0.64),
     Axis("", 1, 9, log=True), Axis("", 0.02, 90000, log=True), Axis("", 0.95, 1.2, log=True)],
)  # fmt: skip
def test_ticks_are_few_ascending_and_inside(axis: Axis) -> None:
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 9
    assert list(ticks) == sorted(ticks)
    assert all(-0.01 <= axis.place(tick) <= 1.01 for tick in ticks)


def colours(text: str) -> Iterator[dict[str, str]]:
    """The colours of a style sheet: as they are, and in the dark."""
    light, _, dark = text.partition("prefers-color-scheme: dark")
    for part in (light, dark.partition("\n}")[0]):
        yield dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", part))


def luminance(colour: str) -> float:
    """Relative luminance, by the Web Content Accessibility Guidelines."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_told_from_their_ground_in_light_and_dark() -> None:
    for found in colours(PAGE_STYLE.read_text(encoding="utf-8")):
        for name in ("text", "quiet", "accent", "good", "bad"):
            assert contrast(found[name], found["paper"]) >= 4.5, name
        assert contrast(found["text"], found["warm"]) >= 4.5
        assert contrast(found["text"], found["panel"]) >= 4.5
    for found in colours(STYLE.read_text(encoding="utf-8")):
        for name in ("ink", "soft", *(f"tone{k}" for k in range(6))):
            assert contrast(found[name], found["ground"]) >= 4.5, name
