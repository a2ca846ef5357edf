"""What the protos say of their elements in comments, for people who read what is compiled from them."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from google.protobuf import descriptor_pb2

from mesh.contract.lint import DESCRIPTORS

# Field numbers in descriptor.proto, as source positions name elements by them.
_FILE_MESSAGE, _FILE_SERVICE, _MESSAGE_FIELD, _MESSAGE_NESTED, _SERVICE_METHOD = 4, 6, 2, 3, 2

Position = tuple[int, ...]


@functools.cache
def comments(descriptors: Path = DESCRIPTORS) -> Mapping[str, str]:
    """By full name: the comment before a service, method, message or field, on one line."""
    found: dict[str, str] = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()).file:
        names = dict(_names(file))
        for place in file.source_code_info.location:
            name = names.get(tuple(place.path))
            if name and place.leading_comments:
                found[name] = " ".join(place.leading_comments.split())
    return found


def _names(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[Position, str]]:
    for number, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield (_FILE_SERVICE, number), name
        for each, method in enumerate(service.method):
            yield (_FILE_SERVICE, number, _SERVICE_METHOD, each), f"{name}.{method.name}"
    for number, message in enumerate(file.message_type):
        yield from _of_message(message, file.package, (_FILE_MESSAGE, number))


def _of_message(
    message: descriptor_pb2.DescriptorProto, package: str, position: Position
) -> Iterator[tuple[Position, str]]:
    name = f"{package}.{message.name}"
    yield position, name
    for number, field in enumerate(message.field):
        yield (*position, _MESSAGE_FIELD, number), f"{name}.{field.name}"
    for number, nested in enumerate(message.nested_type):
        yield from _of_message(nested, name, (*position, _MESSAGE_NESTED, number))
