"""The oracle finds what is wrong, and nothing where nothing is: each planted bug fails the check that is about it."""

from typing import get_args

import pytest

from chaos.checkers.oracle import Findings, judge, lost_business
from chaos.checkers.verdict import Check
from chaos.load.acknowledged import Acknowledged
from chaos.load.impressions import ImpressionRow
from chaos.load.timeline import Timeline
from chaos.load.traffic import Traffic
from chaos.load.transactions import Purchase
from tests.unit.chaos.model_mesh import Bug, ModelMesh

CAUGHT_BY: dict[Bug, str] = {
    "drop an event": "acknowledged events lost",
    "land an event twice": "events doubled",
    "double an order": "orders doubled",
    "lose an order": "acknowledged orders lost",
    "acknowledge before durable": "acknowledged orders that cannot be read",
    "take a payment twice": "payments doubled",
    "swallow a leaf": "acknowledged private calls without a leaf",
    "unbalance the ledger": "ledger sum",
    "answer with an old order": "orders not seen by who had placed them",
}


def rows() -> list[ImpressionRow]:
    return [ImpressionRow(1, "men", n, f"position-{n % 3 + 1}", n % 9 == 0, {"user_feature_0": "a"}) for n in range(30)]


async def played(mesh: ModelMesh, purchases: int = 12) -> tuple[Acknowledged, Findings]:
    """Traffic of a drill against the model, a crash in the middle, and what a drill finds out afterwards."""
    bought = [Purchase(n, str(n), 1, "1997-01", 1, 100 + n) for n in range(purchases)]
    traffic = Traffic(mesh, mesh, Timeline(), "run", rows(), bought, ["m-1"], ["drill-page"])
    traffic.start()
    for number in range(60):
        await traffic.view(0.0)
        if number % 5 == 0:
            await traffic.buy(0.0)
    mesh.crash()
    findings = Findings(unfinished=await traffic.settle(), ledger_reads=1, audit_verifies=True)
    findings.missing_orders = await traffic.missing_orders(100)
    findings.leaves = mesh.leaves
    return traffic.acknowledged, findings


def wrong(checks: tuple[Check, ...]) -> set[str]:
    return {check.name for check in checks if not check.ok}


async def test_an_honest_mesh_is_found_honest() -> None:
    mesh = ModelMesh()
    promises, findings = await played(mesh)
    checks = judge(promises, mesh.books(), findings)
    assert wrong(checks) == set()
    # Something was promised of every kind, or nothing would have been shown.
    assert sum(one.acknowledged for one in promises.impressions.values()) == 60
    assert sum(one.acknowledged for one in promises.clicks.values()) > 0
    assert promises.pages.acknowledged > 0
    assert promises.reads > 0
    assert len(promises.purchases) == 12
    assert all(purchase.captured for purchase in promises.purchases)


@pytest.mark.parametrize("bug", [bug for bug in get_args(Bug) if bug != "none"])
async def test_a_planted_bug_is_caught(bug: Bug) -> None:
    mesh = ModelMesh(bug)
    promises, findings = await played(mesh)
    assert CAUGHT_BY[bug] in wrong(judge(promises, mesh.books(), findings))


@pytest.mark.parametrize(("bug", "lost"), [("none", 0), ("lose an order", 1), ("acknowledge before durable", 1)])
async def test_what_a_second_place_lacks_is_counted(bug: Bug, lost: int) -> None:
    mesh = ModelMesh(bug)
    promises, _ = await played(mesh)
    assert lost_business(promises, mesh.books()) == lost


async def test_what_was_not_acknowledged_may_have_happened_or_not() -> None:
    mesh = ModelMesh()
    promises, findings = await played(mesh)
    slot = next(iter(promises.impressions))
    promises.impressions[slot].open = 1
    assert wrong(judge(promises, mesh.books(), findings)) == set()
    mesh.impressions[slot] += 1
    assert wrong(judge(promises, mesh.books(), findings)) == set()
    mesh.impressions[slot] += 1
    assert wrong(judge(promises, mesh.books(), findings)) == {"events doubled"}


@pytest.mark.parametrize(
    ("spoilt", "check"),
    [
        ({"audit_verifies": False}, "the audit log verifies"),
        ({"ledger_reads": 0}, "ledger reads"),
        ({"unbalanced": ["USD 1"]}, "ledger reads that did not balance"),
        ({"unfinished": ["purchase 1"]}, "purchases that cannot be completed"),
        ({"personal_in_public": ["edge-1.log: value 0"]}, "personal values in the public zone"),
    ],
)
async def test_each_finding_counts(spoilt: dict[str, object], check: str) -> None:
    mesh = ModelMesh()
    promises, findings = await played(mesh)
    for name, value in spoilt.items():
        setattr(findings, name, value)
    assert wrong(judge(promises, mesh.books(), findings)) == {check}


async def test_a_check_says_what_was_found() -> None:
    mesh = ModelMesh()
    promises, findings = await played(mesh)
    findings.personal_in_public = [f"edge-1.log: value {number}" for number in range(9)]

    [failed] = [check for check in judge(promises, mesh.books(), findings) if not check.ok]

    assert failed.observed == 9
    assert failed.of.startswith("edge-1.log: value 0; edge-1.log: value 1;")
