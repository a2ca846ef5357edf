"""The control of the extension: every experiment names it, and it makes a drill of it.

Before the experiment: one drill at a time, leftovers healed, the mesh well, the traffic running. After it, whatever
became of it (success, deviation, interrupt): faults undone, a second look at the steady state, the oracle, the report.
"""

import asyncio
import contextlib
import getpass
import logging
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import stamina.instrumentation
from chaoslib.exceptions import InterruptExecution
from chaoslib.hypothesis import run_steady_state_hypothesis
from chaoslib.run import EventHandlerRegistry
from isthmus.audit.v1 import audit_pb2 as pb

from chaos.checkers import audit
from chaos.checkers.operator import operator
from chaos.drill import current, library, spec
from chaos.drill.custody import locked
from chaos.drill.errors import DrillRefused
from chaos.drill.session import Session
from chaos.drill.settlement import Outcome
from chaos.report.run import Report, write
from deploy.local import topology
from deploy.local.errors import LauncherError
from deploy.local.settings import LauncherSettings
from mesh.errors import MeshError

__all__ = ["after_experiment_control", "after_method_control", "before_experiment_control", "validate_control"]
REFUSAL_S = 5.0
logger = logging.getLogger("chaostoolkit")
_stacks: list[ExitStack] = []


def validate_control(control: dict[str, Any]) -> None:
    """
    Raises:
        InvalidActivity: an argument is unknown or of the wrong type.
    """
    library.as_invalid(lambda: spec.parse(control["provider"].get("arguments") or {}))


def before_experiment_control(context: dict[str, Any], **arguments: Any) -> None:
    """Open the drill. Interrupts the experiment, before anything is touched, when it must not run."""
    if context.get("dry"):
        return
    # What is tried again is counted; a line for each would hide what matters.
    stamina.instrumentation.set_on_retry_hooks([])
    with ExitStack() as stack:
        try:
            library.check(context)
            drill = spec.parse(arguments)
            stack.enter_context(locked(LauncherSettings().layout))
            session = Session.open(library.name_of(context), drill, library.targets(context))
        except LauncherError as error:
            current.refuse(error)
            _record_refusal(library.name_of(context))
            raise InterruptExecution(str(error)) from error
        except Exception as error:
            # Chaos Toolkit would pass over it in silence and look at a mesh without traffic.
            current.refuse(DrillRefused(f"The drill could not begin: {error!r}", "See `isthmus check`"))
            raise InterruptExecution(str(error)) from error
        stack.callback(session.close)
        current.enter(session)
        stack.callback(current.leave)
        _stacks.append(stack.pop_all())


def _record_refusal(name: str) -> None:
    """That somebody wanted it is worth a record, too; a mesh that is not there or not well may not take one."""

    async def record() -> None:
        home = LauncherSettings().layout
        async with operator(home, topology.read(home.topology)) as channel, asyncio.timeout(REFUSAL_S):
            await audit.put_on_record(channel, pb.ACTIVITY_DRILL_REFUSED, f"{name} by {getpass.getuser()}")

    try:
        asyncio.run(record())
    except (MeshError, OSError, TimeoutError, ValueError, StopIteration) as error:
        logger.info(f"The refusal is not in the audit log: {error}")


def after_method_control(context: dict[str, Any], **arguments: Any) -> None:
    """Remember when the method was over: what is looked at afterwards takes time from the mesh, too."""
    if current.is_open():
        session = current.session()
        session.method_ended_s = session.now_s


def after_experiment_control(
    context: dict[str, Any],
    state: dict[str, Any],
    configuration: dict[str, Any] | None = None,
    secrets: dict[str, Any] | None = None,
    **arguments: Any,
) -> None:
    """Close the drill. `state` is Chaos Toolkit's journal: what is found here is added to it, and may fail it."""
    if not current.is_open():
        return
    with _stacks.pop():
        try:
            _close(context, state, configuration or {}, secrets or {})
        except Exception:
            # Chaos Toolkit would pass over it in silence, and the drill would seem to have held.
            logger.exception("The drill could not be closed as it should")
            state["deviated"], state["status"] = True, "failed"


def _close(
    context: dict[str, Any], state: dict[str, Any], configuration: dict[str, Any], secrets: dict[str, Any]
) -> None:
    session = current.session()
    healed = session.heal()
    if healed:
        logger.info(f"Healed: {', '.join(healed)}")
    second, outcome, problem = None, None, ""
    before = state["steady_states"].get("before") or {}
    try:
        session.wait_well()
        if state["status"] in ("interrupted", "aborted"):
            problem = "Interrupted; what was broken is healed"
        elif not before.get("steady_state_met"):
            problem = "The steady state was not met before; nothing was broken"
        else:
            session.linger()
            second = run_steady_state_hypothesis(context, configuration, secrets, None, EventHandlerRegistry())
            outcome = session.settle()
    except (LauncherError, MeshError, TimeoutError, InterruptExecution, KeyboardInterrupt, SystemExit) as error:
        problem = str(error) or type(error).__name__
    _conclude(context, state, session, second, outcome, problem)


def _conclude(
    context: dict[str, Any],
    state: dict[str, Any],
    session: Session,
    second: dict[str, Any] | None,
    outcome: Outcome | None,
    problem: str,
) -> None:
    report = Report.of(context, state, session, second, outcome, problem)
    try:
        session.put_on_record(pb.ACTIVITY_DRILL_HELD if report.ok else pb.ACTIVITY_DRILL_FAILED)
    except (MeshError, TimeoutError) as error:
        report = replace(report, problem=report.problem or f"How it ended is not in the audit log: {error}")
    state["steady_states"]["second"] = second
    state["isthmus"] = report.document()
    if not report.ok:
        state["deviated"] = True
        if state["status"] == "completed":
            state["status"] = "failed"
    with contextlib.suppress(OSError):
        place = write(session.target.home, report)
        page = str(place / "report.html")
        state["isthmus"]["page"] = page
        logger.info(f"Report: {page}")
        if not report.ok and session.logbook.keep(place / "logs"):
            state["isthmus"]["logs"] = str(place / "logs")
    for line in report.lines():
        logger.info(line)
