"""What can keep the mesh from starting, each with its remedy and its own exit status."""


class LauncherError(Exception):
    """One clear line for whoever typed the command."""

    exit_code = 1

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message}. {remedy}")
        self.message = message
        self.remedy = remedy


class AlreadyRunning(LauncherError):
    """Another launcher holds this home."""

    exit_code = 10


class PortTaken(LauncherError):
    """A port of the table belongs to somebody else."""

    exit_code = 11


class DiskFull(LauncherError):
    """Too little room for logs, spools and databases."""

    exit_code = 12


class ToolMissing(LauncherError):
    """A program or a download that `make setup` brings is not there, or is too old."""

    exit_code = 13


class HomeNotWritable(LauncherError):
    """ISTHMUS_HOME cannot hold the mesh's state."""

    exit_code = 14


class ProcessFailed(LauncherError):
    """A process never became ready, or a one-shot step ended badly."""

    exit_code = 15


class NotRunning(LauncherError):
    """There is no running mesh in this home."""

    exit_code = 16


class UnknownName(LauncherError):
    """The command was given a name that fits nothing, or more than one thing."""

    exit_code = 2
