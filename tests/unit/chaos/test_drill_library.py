"""The experiments that come along are sound; an unsound one is refused, with its reason, before it touches anything."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from chaos.drill import library, run
from chaos.drill.errors import BadExperiment

REPOSITORY = Path(__file__).resolve().parents[3]
NAMES = [one.name for one in library.listed()]
Spoil = Callable[[dict[str, Any]], None]


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_that_comes_along_is_sound_and_has_a_runbook(name: str) -> None:
    planned = run.plan(name)
    assert planned.name == name
    assert planned.steps
    assert planned.looks
    assert (REPOSITORY / f"docs/runbooks/{name}.md").is_file()


def control(experiment: dict[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = experiment["controls"][0]["provider"]["arguments"]
    return arguments


def probe(experiment: dict[str, Any], name: str) -> dict[str, Any]:
    probes = experiment["steady-state-hypothesis"]["probes"]
    return next(one for one in probes if one["provider"]["func"] == name)


def step(experiment: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = experiment["method"][0]
    return first


SPOILT: dict[str, tuple[Spoil, str]] = {
    "no control": (lambda e: e.pop("controls"), "chaos.control"),
    "no hypothesis": (lambda e: e.pop("steady-state-hypothesis"), "hypothesis"),
    "no method": (lambda e: e.pop("method"), "method"),
    "no title": (lambda e: e.pop("title"), "title"),
    "unknown action": (lambda e: step(e)["provider"].update(func="explode"), "explode"),
    "somebody's module": (lambda e: step(e)["provider"].update(module="os", func="abort"), "chaos.actions"),
    "a process": (lambda e: step(e).update(provider={"type": "process", "path": "/bin/true"}), "chaos.actions"),
    "unknown argument": (lambda e: step(e)["provider"]["arguments"].update(colour="red"), "colour"),
    "missing argument": (lambda e: step(e)["provider"]["arguments"].pop("share"), "share"),
    "argument of another type": (lambda e: step(e)["provider"]["arguments"].update(share="much"), "share"),
    "a bool for a number": (lambda e: step(e)["provider"]["arguments"].update(share=True), "share"),
    "tolerance true for a number": (lambda e: probe(e, "public_p99_ms").update(tolerance=True), "tolerance"),
    "tolerance of words": (lambda e: probe(e, "public_p99_ms").update(tolerance="fast"), "tolerance"),
    "tolerance upside down": (lambda e: probe(e, "public_p99_ms").update(tolerance=[2, 1]), "tolerance"),
    "number for true or false": (lambda e: probe(e, "ledger_balances").update(tolerance=1), "tolerance"),
    "unknown expectation": (lambda e: control(e)["expect"].update(luck=1), "luck"),
    "target outside the radius": (lambda e: step(e)["provider"]["arguments"].update(workload="orders"), "orders"),
    "no blast radius": (lambda e: control(e).pop("blast_radius"), "blast_radius"),
    "blast radius beyond all bounds": (lambda e: control(e)["blast_radius"].update(processes_max=99), "processes_max"),
    "text for a rate": (lambda e: control(e)["load"].update(public_per_s="100"), "public_per_s"),
}


@pytest.mark.parametrize(("spoil", "why"), SPOILT.values(), ids=SPOILT)
def test_an_unsound_experiment_is_refused(spoil: Spoil, why: str) -> None:
    experiment = deepcopy(library.read(library.find("kill-30-percent-of-edge")))
    spoil(experiment)
    with pytest.raises(BadExperiment, match=why):
        library.check(experiment)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "title: [", "\x00"])
def test_a_file_that_holds_no_experiment_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(content)
    with pytest.raises(BadExperiment):
        library.read(file)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(BadExperiment, match="no drill"):
        library.find("no-such-drill")
