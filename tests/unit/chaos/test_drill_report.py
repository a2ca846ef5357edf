"""The report of a run: one page that needs nothing else, one JUnit file, and a look back."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from chaos.checkers.books import Books
from chaos.checkers.oracle import Findings, judge
from chaos.checkers.verdict import Check
from chaos.drill.session import Window
from chaos.load.acknowledged import Acknowledged
from chaos.load.timeline import Second
from chaos.report import history, junit, page
from chaos.report.run import ACKNOWLEDGED, Figures, Report, folder, recovery_point, write
from deploy.local.settings import Home

LOST = Check("acknowledged events lost", 0, 0)


def figures(**changed: Any) -> Figures:
    numbers: dict[str, Any] = dict.fromkeys(Figures.__dataclass_fields__, 0)
    return Figures(**(numbers | {"public_calls": 1000, "public_p99_ms": 12.0, "landed_after_s": 2.5} | changed))


def report(*checks: Check, **changed: Any) -> Report:
    seconds = tuple(Second(float(n), 100, int(n == 5), 3.0, 12.0 if n != 5 else 900.0) for n in range(20))
    fields: dict[str, Any] = {
        "name": "kafka-outage",
        "title": "Kafka is away",
        "description": "It is <b>stopped</b>.",
        "run": "0badcafe",
        "began": "2026-11-22T10:00:00+00:00",
        "started_by": "ada",
        "seed": 7,
        "machine": "x86_64, 2 cores",
        "interrupted": False,
        "problem": "",
        "runbook": "docs/runbooks/kafka-outage.md",
        "figures": figures(),
        "windows": (Window("kafka: hold", "key", 4.0, 9.0),),
        "checks": (LOST, *checks),
        "public": seconds,
        "sensitive": seconds,
        "reasons": {"order: HTTP 503 <script>": 3},
    }
    return Report(**(fields | changed))


def document(of: Report) -> dict[str, Any]:
    return of.document() | {"last": None, "budget": [asdict(one) for one in history.budget([of.document()], "2026-11")]}


def test_the_recovery_point_is_none_only_when_nothing_acknowledged_is_missing() -> None:
    kept = [Check(name, 0, 0) for name in ACKNOWLEDGED]
    assert recovery_point([*kept, Check("events doubled", 0, 3)]).ok
    for number, name in enumerate(ACKNOWLEDGED):
        lost = [*kept[:number], Check(name, 0, 2), *kept[number + 1 :]]
        assert recovery_point(lost).observed == 2


def test_the_oracle_says_each_of_what_the_recovery_point_adds_up() -> None:
    nothing = Books({}, {}, 0, 0, 0, 0, {}, {}, {}, 0)
    said = {check.name for check in judge(Acknowledged(), nothing, Findings())}
    assert set(ACKNOWLEDGED) <= said


def test_a_report_holds_when_every_check_does() -> None:
    assert report().ok
    assert not report(Check("step", "succeeded", "failed")).ok
    assert not report(interrupted=True).ok
    assert not report(problem="the mesh is gone").ok


def test_nothing_judged_is_nothing_shown() -> None:
    assert not report(checks=()).ok
    assert not report(checks=(Check("step", "succeeded", "succeeded"),)).ok


def test_the_page_stands_alone_and_says_the_verdict_first() -> None:
    html = page.render(document(report()))
    assert html.index("kafka-outage: held") < html.index("<main>")
    assert not re.search(r"(src|href)=|url\(|https?://|<script", html)


def test_the_page_escapes_what_comes_from_outside() -> None:
    html = page.render(document(report()))
    assert "<b>stopped" not in html
    assert "&lt;script&gt;" in html


def test_the_fault_is_shaded_over_its_time() -> None:
    html = page.render(document(report()))
    shade = re.search(r'<rect class="fault" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', html)
    assert shade
    assert (float(shade[1]), float(shade[2])) == pytest.approx((96 + 1080 * 4 / 20, 1080 * 5 / 20))
    assert "kafka: hold" in html


def test_what_did_not_hold_comes_with_its_runbook() -> None:
    html = page.render(document(report(Check("failed public calls", "at most 0", 5, met=False))))
    assert "did not hold" in html
    assert "docs/runbooks/kafka-outage.md" in html


def test_junit_has_a_case_for_each_check_and_a_failure_for_each_that_does_not_hold() -> None:
    suite = ElementTree.fromstring(junit.render(document(report(Check("ledger sum", 0, 5), problem="ended early"))))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failed == ["ledger sum"]


def test_a_second_run_is_laid_beside_the_first(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first, second = report(figures=figures(public_failed=1)), report(began="2026-11-22T11:00:00+00:00")
    assert json.loads((write(home, first) / "report.json").read_text())["last"] is None
    written = json.loads((write(home, second) / "report.json").read_text())
    assert written["last"]["public_failed"] == 1
    three, four = written["budget"]
    assert (three["calls"], three["allowed"], three["failed"]) == (2000, 2.0, 1)
    assert (four["objective"], four["allowed"]) == (0.9999, 0.2)
    assert {path.name for path in folder(home, second).iterdir()} == {"report.json", "report.html", "junit.xml"}


def test_old_runs_go_when_there_are_too_many(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}-run").mkdir()
    history.prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3-run", "4-run"]


def test_the_line_stops_where_nothing_went_well() -> None:
    seconds = tuple(Second(float(n), 10, 10 if 5 <= n < 15 else 0, 3.0, 12.0) for n in range(20))
    html = page.render(document(report(sensitive=seconds)))
    assert html.count('<polyline class="sensitive-p99"') == 2
    assert html.count('<polyline class="public-p99"') == 1
