"""The drill of this process. Chaos Toolkit calls actions and probes by name alone, so they find it here."""

from chaos.drill.session import Session
from deploy.local.errors import LauncherError

_sessions: list[Session] = []
_refusals: list[LauncherError] = []


class NoDrill(RuntimeError):
    """An action or probe was called outside a drill."""


def enter(session: Session) -> None:
    assert not _sessions, "one drill at a time in a process"
    _sessions.append(session)


def leave() -> None:
    _sessions.clear()


def session() -> Session:
    """
    Raises:
        NoDrill: the experiment lacks the control chaos.control, or it refused the mesh.
    """
    if not _sessions:
        raise NoDrill("no drill is open: an experiment needs the control chaos.control")
    return _sessions[0]


def is_open() -> bool:
    return bool(_sessions)


def refuse(error: LauncherError) -> None:
    """Remember why the drill was refused: Chaos Toolkit itself keeps only that it was interrupted."""
    _refusals.append(error)


def forget_refusal() -> None:
    _refusals.clear()


def refusal() -> LauncherError | None:
    return _refusals[-1] if _refusals else None
