"""What a record calls whose data a call was about: an id as it is, anything else by a keyed hash.

The field that names them is filled by the caller. Who puts a phone number or an address where an id belongs is
refused, and yet the refusal is on record, for years and beyond an erasure. Under the hash the same value is found again
by whoever asks the log for it, and by nobody else. What could be a phone number is taken for one.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Final

from mesh.errors import MeshError
from security.keys import key_file
from security.keys.blind_index import BlindIndex

KEY: Final = Path("data/keys/audit/subjects.key")
HASHED: Final = "hmac:"
# Said for a value that cannot be hashed, because there is no key.
WITHHELD: Final = "withheld"
_HASH_DIGITS: Final = 32
_ID: Final = re.compile(r"(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9._:/-]+")


class Subjects:
    """path: the key, which all processes of the zone share. It is opened, or made, by the first value that needs it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def below(cls, home: Path) -> "Subjects":
        return cls(home / KEY)

    def named(self, value: str) -> str:
        """The same for the same value."""
        if not value or _ID.fullmatch(value):
            return value
        try:
            return HASHED + self._index.of(value).hex()[:_HASH_DIGITS]
        except (MeshError, OSError):
            return WITHHELD

    @cached_property
    def _index(self) -> BlindIndex:
        return BlindIndex(key_file.open_or_create(self._path))
