"""What can be wrong with an envelope or a key. None of these ever repeats a value, a key or a row's id."""

from mesh.errors import DataLoss, FailedPrecondition


class EnvelopeMalformed(DataLoss):
    """Truncated, or no envelope at all."""

    def __init__(self, detail: str) -> None:
        super().__init__("ENVELOPE_MALFORMED", f"a stored value is damaged: {detail}")


class EnvelopeUnsupported(FailedPrecondition):
    """Written by a newer version of this software."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            "ENVELOPE_UNSUPPORTED",
            f"a stored value has a format that this version cannot read: {detail}",
            remedy="Run the version that wrote it, or a newer one.",
        )


class EnvelopeRejected(DataLoss):
    """The tag does not fit: altered, moved from another place, or another key. These cannot be told apart."""

    def __init__(self) -> None:
        super().__init__("ENVELOPE_REJECTED", "a stored value does not belong where it lies, or was altered")


class KekUnknown(FailedPrecondition):
    """The key-encryption key that is needed is not in this keyring."""

    def __init__(self, kek: str) -> None:
        super().__init__(
            "KEK_UNKNOWN",
            f"key-encryption key {kek} is not in the keyring",
            remedy="Restore the keyring file that belongs to this database.",
        )


class KeyringUnusable(FailedPrecondition):
    """The keyring file is damaged, or of a format that this version does not know."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            "KEYRING_UNUSABLE",
            f"the keyring cannot be used: {detail}",
            remedy="Restore the keyring file from its backup.",
        )
