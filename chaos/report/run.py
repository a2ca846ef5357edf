"""The record of one run: verdict, figures, checks and timeline, and the files that hold it."""

import getpass
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chaos.checkers.recovery import (
    failed,
    failover_s,
    longest_s,
    normal_p99_ms,
    public_recovered_s,
    refused_s,
    sensitive_recovered_s,
)
from chaos.checkers.verdict import Check
from chaos.drill.custody import directory
from chaos.drill.session import Session, Window
from chaos.drill.settlement import Outcome
from chaos.load.timeline import PUBLIC, SENSITIVE, Second, availability, buckets, percentile_ms
from chaos.report import history, junit, page
from deploy.local.settings import Home

RUNS_KEPT = 200
# The oracle's checks of what was promised and may be gone.
ACKNOWLEDGED = tuple(
    f"acknowledged {what}" for what in ("events lost", "orders lost", "payments lost", "private calls without a leaf")
)


@dataclass(frozen=True)
class Figures:
    """What was measured. Times of recovery are None where there was nothing to recover, or nothing did."""

    duration_s: float
    public_calls: int
    public_failed: int
    public_availability: float
    public_p50_ms: float
    public_p99_ms: float
    public_normal_p99_ms: float
    public_recovered_s: float | None
    sensitive_calls: int
    sensitive_failed: int
    sensitive_availability: float
    sensitive_failover_s: float | None
    sensitive_recovered_s: float | None
    sensitive_longest_s: float
    sensitive_refused_s: float | None
    unavailable: int
    unavailable_with_retry_after: int
    landed_after_s: float | None
    freshness_p50_ms: float
    freshness_p99_ms: float
    arrivals_refused: int


@dataclass(frozen=True)
class Report:
    name: str
    title: str
    description: str
    run: str
    began: str
    started_by: str
    seed: int
    machine: str
    interrupted: bool
    problem: str
    runbook: str
    figures: Figures
    windows: tuple[Window, ...]
    checks: tuple[Check, ...]
    public: tuple[Second, ...]
    sensitive: tuple[Second, ...]
    reasons: dict[str, int] = field(default_factory=dict)
    healed_before: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        experiment: dict[str, Any],
        journal: dict[str, Any],
        session: Session,
        second: dict[str, Any] | None,
        outcome: Outcome | None,
        problem: str,
    ) -> "Report":
        """Everything that the session knows, in the moment in which it ends."""
        timeline, end_s = session.crowd.timeline, session.now_s
        figures = _figures(session, outcome, end_s)
        looks = {**journal.get("steady_states", {}), "second": second}
        checks = [
            *_looks(looks),
            *_actions(journal),
            # A run that was not judged to its end says so by its problem; figures of half a run expect nothing.
            *((*_expectations(session, figures), *_recovered(session, outcome), *outcome.checks) if outcome else ()),
        ]
        began = datetime.fromtimestamp(session.crowd.began_us / 1e6, UTC)
        return cls(
            session.name,
            experiment["title"],
            " ".join(str(experiment.get("description", "")).split()),
            session.crowd.run,
            began.isoformat(timespec="seconds"),
            getpass.getuser(),
            session.drill.seed,
            f"{platform.machine()}, {os.cpu_count()} cores",
            journal["status"] in ("interrupted", "aborted"),
            problem,
            f"docs/runbooks/{session.name}.md",
            figures,
            tuple(session.windows),
            tuple(checks),
            # After the last call nothing is to be seen, however long the books took.
            tuple(buckets(timeline.calls(PUBLIC), timeline.end_s)),
            tuple(buckets(timeline.calls(SENSITIVE), timeline.end_s)),
            dict(timeline.reasons),
            tuple(session.healed_before),
        )

    @property
    def ok(self) -> bool:
        """Every check held, and there were checks: nothing checked is nothing shown."""
        judged = any(check.name == "acknowledged events lost" for check in self.checks)
        return judged and not self.interrupted and not self.problem and all(check.ok for check in self.checks)

    @property
    def verdict(self) -> str:
        if self.interrupted:
            return "interrupted"
        return "held" if self.ok else "did not hold"

    def document(self) -> dict[str, Any]:
        """For programs. Times in seconds of the timeline, which begins with the traffic."""
        document = asdict(self)
        document["checks"] = [asdict(check) | {"ok": check.ok} for check in self.checks]
        return {"ok": self.ok, "verdict": self.verdict, **document}

    def lines(self) -> list[str]:
        """What whoever waits wants to read first."""
        figures = self.figures
        wrong = [f"  not held: {one.name} {one.of}: {one.observed}, expected {one.expected}" for one in self.wrong]
        return [
            f"{self.name}: {self.verdict}. Public {figures.public_failed} of {figures.public_calls} failed, "
            f"sensitive {figures.sensitive_failed} of {figures.sensitive_calls}; p99 {figures.public_p99_ms:.0f} ms",
            *wrong,
            *([f"  {self.problem}"] if self.problem else []),
        ]

    @property
    def wrong(self) -> list[Check]:
        return [check for check in self.checks if not check.ok]


def folder(home: Home, report: Report) -> Path:
    stamp = report.began.replace(":", "").replace("-", "")[:15]
    return directory(home) / "runs" / f"{stamp}-{report.name}-{report.run}"


def write(home: Home, report: Report) -> Path:
    """report.json, report.html and junit.xml in a folder of their own; returns it."""
    place = folder(home, report)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    earlier = history.read(place.parent)
    last = next((one for one in reversed(earlier) if one["name"] == report.name), None)
    document = report.document()
    budget = history.budget([*earlier, document], report.began[:7])
    document["last"] = None if last is None else last["figures"]
    document["budget"] = [asdict(one) for one in budget]
    (place / "report.json").write_text(json.dumps(document, indent=1, default=str) + "\n")
    (place / "report.html").write_text(page.render(document))
    (place / "junit.xml").write_text(junit.render(document))
    history.prune(place.parent, RUNS_KEPT)
    return place


def _figures(session: Session, outcome: Outcome | None, end_s: float) -> Figures:
    timeline, crowd = session.crowd.timeline, session.crowd
    public, sensitive = list(timeline.calls(PUBLIC)), list(timeline.calls(SENSITIVE))
    began = min((window.began_s for window in session.windows), default=None)
    healed = max((window.ended_s or end_s for window in session.windows), default=None)
    # The first requests open connections, and perhaps the mesh has just started: normal is the later half.
    before_s = session.drill.load.before_s
    normal_ms = normal_p99_ms(timeline, before_s / 2, before_s)
    watched_s = session.method_ended_s or max((call.due_s for call in public), default=0.0)
    return Figures(
        round(end_s, 1),
        len(public),
        failed(timeline, PUBLIC),
        round(availability(public), 6),
        round(percentile_ms(public, 0.5), 1),
        round(percentile_ms(public, 0.99), 1),
        round(normal_ms, 1),
        None if began is None else public_recovered_s(timeline, began, watched_s, normal_ms),
        len(sensitive),
        failed(timeline, SENSITIVE),
        round(availability(sensitive), 6),
        None if began is None else failover_s(timeline, began),
        None if healed is None else sensitive_recovered_s(timeline, healed),
        longest_s(timeline, SENSITIVE),
        refused_s(timeline, SENSITIVE),
        timeline.unavailable,
        timeline.unavailable_with_retry_after,
        outcome.landed_after_s if outcome else None,
        outcome.freshness_p50_ms if outcome else 0.0,
        outcome.freshness_p99_ms if outcome else 0.0,
        crowd.refused,
    )


def _looks(looks: dict[str, Any]) -> Iterable[Check]:
    """Each probe of each look at the steady state. A look that was not taken has not been passed."""
    for when in ("before", "after", "second"):
        look = looks.get(when)
        if not look:
            yield Check(f"steady state, {when}", "looked at", "not looked at")
            continue
        for run in look.get("probes", []):
            wanted, seen = run["activity"].get("tolerance"), run.get("output")
            observed = seen if seen is not None else str((run.get("exception") or ["failed"])[-1]).strip()[:200]
            met = bool(run.get("tolerance_met", False))
            yield Check(f"steady state, {when}", wanted, observed, run["activity"]["name"], met=met)


def _actions(journal: dict[str, Any]) -> Iterable[Check]:
    for run in journal.get("run", []):
        status = run.get("status")
        why = "" if status == "succeeded" else str((run.get("exception") or [""])[-1]).strip()[:200]
        yield Check("step", "succeeded", f"{status} {why}".strip(), run["activity"]["name"])


def _expectations(session: Session, figures: Figures) -> Iterable[Check]:
    expect = session.drill.expect
    yield from _at_most("failed public calls", figures.public_failed, expect.public_failed_max)
    yield from _at_most("failed sensitive calls", figures.sensitive_failed, expect.sensitive_failed_max)
    yield from _at_most("public recovered within, s", figures.public_recovered_s, expect.public_recovered_within_s)
    yield from _at_most(
        "sensitive recovered within, s", figures.sensitive_recovered_s, expect.sensitive_recovered_within_s
    )
    yield from _at_most(
        "sensitive calls around the fault within, s", figures.sensitive_failover_s, expect.sensitive_failover_within_s
    )
    yield from _at_most("recovery time (RTO), s", figures.sensitive_failover_s, expect.recovery_time_within_s)
    if expect.second_place_within_s is not None:
        lost = "not restored" if session.second_place_s is None else session.second_place_lost
        yield Check("second place, recovery point (RPO), acknowledged and lost", 0, lost)
        most = expect.second_place_within_s
        yield from _at_most("second place, recovery time (RTO), s", session.second_place_s, most)
    yield from _at_most("longest sensitive answer, s", figures.sensitive_longest_s, expect.sensitive_answered_within_s)
    yield from _at_most("refused within, s", figures.sensitive_refused_s, expect.sensitive_refused_within_s)
    yield from _at_most("events landed within, s", figures.landed_after_s, expect.landed_within_s)
    if expect.retry_after:
        yield Check("refusals with 503", 1, figures.unavailable, at_least=True)
        yield Check("refusals that say Retry-After", figures.unavailable, figures.unavailable_with_retry_after)
    yield Check("arrivals that the generator could not send", 0, figures.arrivals_refused)


def _recovered(session: Session, outcome: Outcome) -> Iterable[Check]:
    if session.drill.expect.recovery_time_within_s is not None:
        yield recovery_point(outcome.checks)


def recovery_point(checks: Iterable[Check]) -> Check:
    """Of what was acknowledged before data was lost and while it was restored, nothing may be missing."""
    lost = sum(int(str(check.observed)) for check in checks if check.name in ACKNOWLEDGED)
    return Check("recovery point (RPO), acknowledged and lost", 0, lost)


def _at_most(name: str, observed: float | None, most: float | None) -> Iterable[Check]:
    if most is not None:
        yield Check(name, f"at most {most:g}", observed, met=observed is not None and observed <= most)
