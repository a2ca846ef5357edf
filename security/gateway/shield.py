"""The input shield: texts of sensitive calls that look like SQL or script, and messages that are too deep or too many.

Statements are parameterised and pages escape what they show, whoever asks; this is the fence before that. It looks at
the call as the service will see it: decoded from JSON to the message of its method, and at each text in its plainest
form.
"""

import html
import re
import unicodedata
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final
from urllib.parse import unquote

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from mesh import telemetry
from mesh.contract import Contract
from mesh.contract.model import DataClass
from mesh.errors import InvalidArgument
from mesh.logs import logger
from security.gateway import signatures

log = logger("gateway")

DEPTH_MAX: Final = 16
TEXTS_MAX: Final = 2_000
# What a text was wrapped in, at most so many times.
_UNWRAPPED_MAX: Final = 3
# A message on the wire of gRPC: whether it is compressed, its length, and then it itself.
_PREFIX: Final = 5
_ESCAPED: Final = re.compile(r"\\(?:u\{?([0-9a-f]{2,6})\}?|x([0-9a-f]{2}))", re.IGNORECASE)
_INVISIBLE: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]")
_COMMENT: Final = re.compile(r"/\*!?\d*(.*?)\*/", re.DOTALL)
_SPACE: Final = re.compile(r"\s+")


class Mode(Enum):
    """What becomes of a call that the shield finds something in. Limits hold in every mode."""

    SHADOW = "shadow"
    ENFORCE = "enforce"


class Shield:
    """Looks at calls by the contract. For one loop."""

    def __init__(self, contract: Contract, mode: Mode) -> None:
        self._messages = contract.messages
        self._mode = mode
        self._found = telemetry.meter().create_counter("gateway.shield")
        pool = descriptor_pool.Default()
        self._types: dict[str, Any] = {
            method.path: message_factory.GetMessageClass(pool.FindMessageTypeByName(method.request))
            for method in contract.methods.values()
        }

    def check(self, path: str, body: bytes) -> None:
        """InvalidArgument for a call that must not go on. body: as gRPC frames it."""
        if not body:
            return
        if body[0] != 0 or int.from_bytes(body[1:_PREFIX], "big") != len(body) - _PREFIX:
            raise InvalidArgument("INPUT_MALFORMED", "the call is not one message, plain and whole")
        request: Message = self._types[path]()
        try:
            request.ParseFromString(body[_PREFIX:])
        except DecodeError as error:
            raise InvalidArgument("INPUT_MALFORMED", "the call is not a message of its method") from error
        for number, (field, text) in enumerate(self._texts(request, 0)):
            if number >= TEXTS_MAX:
                raise InvalidArgument("INPUT_TOO_LARGE", f"a call holds at most {TEXTS_MAX} texts")
            kind = suspicion(text)
            if kind is None:
                continue
            self._found.add(1, {"kind": kind, "mode": self._mode.value})
            # The text itself is nobody's business, here least of all.
            log.warning("suspicious_input", method=path, field=field, kind=kind, mode=self._mode.value)
            if self._mode is Mode.ENFORCE:
                raise InvalidArgument("INPUT_REFUSED", f"the field {field} holds what is not taken here")

    def _texts(self, message: Message, depth: int) -> Iterator[tuple[str, str]]:
        """Every text with the name of its field, but for secrets, which may be anything, and expected markup."""
        if depth > DEPTH_MAX:
            raise InvalidArgument("INPUT_TOO_DEEP", f"a call is at most {DEPTH_MAX} messages deep")
        policies = self._messages.get(message.DESCRIPTOR.full_name, {})
        for field, value in message.ListFields():
            policy = policies.get(field.name)
            if policy is not None and (policy.data_class is DataClass.SECRET or policy.markup):
                continue
            values = value if field.is_repeated else (value,)
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                entries = [each for pair in value.items() for each in pair]
                values = [each for each in entries if isinstance(each, str | Message)]
            for each in values:
                if isinstance(each, str):
                    yield field.name, each
                elif isinstance(each, Message):
                    yield from self._texts(each, depth + 1)


def suspicion(text: str) -> str | None:
    """What kind of attack a text looks like, if any."""
    if not signatures.WORTH_A_LOOK.search(text):
        return None
    plain = canonical(text)
    return next((kind for kind, pattern in signatures.ALL if pattern.search(plain)), None)


def canonical(text: str) -> str:
    """The plainest form of a text: unwrapped, in one spelling of each letter, small, without comments between words.

    What is no UTF-8 counts as space, as it does to some databases.
    """
    for _ in range(_UNWRAPPED_MAX):
        unwrapped = _ESCAPED.sub(_letter, html.unescape(unquote(text, errors="replace")))
        if unwrapped == text:
            break
        text = unwrapped
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text.replace("\ufffd", " ")))
    return _SPACE.sub(" ", _COMMENT.sub(r" \1 ", text)).casefold()


def _letter(found: re.Match[str]) -> str:
    number = int(found[1] or found[2], 16)
    return chr(number) if number < 0x110000 else ""
