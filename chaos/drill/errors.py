"""Why a drill was not run, each with its remedy and its own exit status."""

from deploy.local.errors import LauncherError


class DrillRefused(LauncherError):
    """Nothing was touched."""

    exit_code = 20


class BadExperiment(DrillRefused):
    """The experiment names nothing real, or breaks a rule of its format."""

    exit_code = 21


class DrillRunning(DrillRefused):
    """One drill at a time."""

    exit_code = 22


class MeshUnwell(DrillRefused):
    """A mesh that is not well before a drill would only be broken further."""

    exit_code = 23


class TooWide(DrillRefused):
    """A fault would reach further than its experiment declares, or than any may."""

    exit_code = 24
