"""How a spool fails. Its callers turn these into answers."""


class SpoolError(Exception):
    """Base of all."""


class SpoolBusy(SpoolError):
    """Another process owns the directory."""


class SpoolFull(SpoolError):
    """A durable event cannot be taken: the spool is at its bound or the disk is full."""


class SpoolFailed(SpoolError):
    """The disk refused to sync. What it holds is unknown from then on (fsync reports an error once), so nothing more
    is accepted until the process has started again and read the spool back."""
