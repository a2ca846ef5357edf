"""What may be shown of a value in logs, traces and errors, compiled from the class and mask of its field."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from google.protobuf.message import Message

from mesh.contract.model import Contract, DataClass, FieldPolicy, Mask

HIDDEN: Final = "[redacted]"
# Names under which no value is ever shown, whatever the caller meant by it; no contract needs to declare them.
_NEVER: Final = frozenset(
    {"authorization", "cookie", "key", "passphrase", "password", "phone", "address", "secret", "token"}
)
# A shorter value would be found in half of all words.
_SCRUBBED_LENGTH_MIN: Final = 3
_VALUES_MAX: Final = 256


class Redaction:
    """The fields above INTERNAL of one contract, by name and by message."""

    def __init__(self, contract: Contract) -> None:
        self._messages = contract.messages
        self._names: dict[str, FieldPolicy] = {}
        for fields in contract.messages.values():
            for name, policy in fields.items():
                known = self._names.get(name)
                if policy.data_class > max(DataClass.INTERNAL, known.data_class if known else DataClass.INTERNAL):
                    self._names[name] = policy

    def named(self, name: str, value: object) -> object:
        """A value as a log line may show it under this name: as the strictest field so called would be."""
        policy = self._names.get(name)
        if policy is not None:
            return masked(value, policy)
        if name in _NEVER:
            return HIDDEN
        return self.message(value) if isinstance(value, Message) else value

    def message(self, message: Message) -> dict[str, Any]:
        """The fields that are set, each as its class allows. A message of no contract shows its name alone."""
        policies = self._messages.get(message.DESCRIPTOR.full_name)
        if policies is None:
            return {"message": message.DESCRIPTOR.full_name}
        shown: dict[str, Any] = {}
        for field, value in message.ListFields():
            policy = policies[field.name]
            if policy.data_class > DataClass.INTERNAL and field.message_type is None:
                shown[field.name] = masked(value, policy)
            elif field.message_type is None or field.message_type.GetOptions().map_entry:
                shown[field.name] = str(value) if field.message_type else value
            elif isinstance(value, Message):
                shown[field.name] = self.message(value)
            else:
                shown[field.name] = [self.message(each) for each in value]
        return shown

    def scrub(self, text: str, message: Message) -> str:
        """`text` without what the message's fields above INTERNAL hold: libraries quote what they choke on."""
        return self.scrubber(message)(text)

    def scrubber(self, message: Message) -> Callable[[str], str]:
        """The same for several texts."""
        hidden = [(value, masked(value, policy)) for value, policy in self._personal(message)]

        def scrub(text: str) -> str:
            for value, shown in hidden:
                if len(value) >= _SCRUBBED_LENGTH_MIN:
                    text = text.replace(value, shown)
            return text

        return scrub

    def _personal(self, message: Message) -> list[tuple[str, FieldPolicy]]:
        """Longest first, so that no value is cut by another that it holds."""
        found = [pair for _, pair in zip(range(_VALUES_MAX), self._walk(message), strict=False)]
        return sorted(found, key=lambda pair: -len(pair[0]))

    def _walk(self, message: Message) -> Iterator[tuple[str, FieldPolicy]]:
        policies = self._messages.get(message.DESCRIPTOR.full_name, {})
        for field, value in message.ListFields():
            policy = policies.get(field.name)
            if field.message_type is not None:
                if isinstance(value, Message):
                    yield from self._walk(value)
                elif not field.message_type.GetOptions().map_entry:
                    for each in value:
                        yield from self._walk(each)
            elif policy is not None and policy.data_class > DataClass.INTERNAL:
                for each in _each(value):
                    yield str(each), policy


def _each(value: Any) -> Iterable[Any]:
    """The values of a field, repeated or not."""
    return (value,) if isinstance(value, str | bytes | int | float) else value


def masked(value: object, policy: FieldPolicy) -> str:
    """What may be seen of a value above INTERNAL; of one that is SENSITIVE or SECRET, at most how long it is."""
    text = value if isinstance(value, str) else ""
    if policy.mask is Mask.ALL:
        return f"[redacted, up to {_length_class(len(str(value)))} characters]"
    if policy.data_class > DataClass.PERSONAL:
        return HIDDEN
    if policy.mask is Mask.PHONE and len(text) >= 11:
        return f"{text[:3]}****{text[-4:]}"
    if policy.mask is Mask.NAME and text:
        return f"{text[0]}*"
    return HIDDEN


def _length_class(length: int) -> int:
    """The next power of two, from 8 on."""
    return int(max(8, 1 << max(0, length - 1).bit_length()))
