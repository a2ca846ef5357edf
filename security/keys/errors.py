"""What can be wrong with an envelope or a key. None of these ever repeats a value, a key or a row's id."""

from mesh.errors import DataLoss, FailedPrecondition, Unavailable


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


class KmsAway(Unavailable):
    """The key management system does not answer, or is sealed."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            "KMS_AWAY", f"the key management system cannot be used now: {detail}", remedy="Try again later."
        )


class KmsRefused(FailedPrecondition):
    """The key management system does not let us, or is not set up for us."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__("KMS_REFUSED", f"the key management system refuses: {detail}", remedy=remedy)


class KeyringBusy(FailedPrecondition):
    """A key was added a moment ago, and an older one may still be in use somewhere."""

    def __init__(self, settled_s: float) -> None:
        super().__init__(
            "KEYRING_BUSY",
            f"the keyring was changed less than {settled_s:.0f} s ago, and the older keys may be in use",
            remedy="Try again in a minute.",
        )


class KeyExhausted(FailedPrecondition):
    """The key has sealed as much as a key may."""

    def __init__(self) -> None:
        super().__init__(
            "KEY_EXHAUSTED",
            "this key has sealed as many values as random nonces allow",
            remedy="Rotate it: isthmus keys rotate.",
        )
