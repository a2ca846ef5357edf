"""JSON to gRPC and back, for exactly the bindings of the contract."""

import base64
from importlib import resources
from pathlib import Path
from typing import Any, Final

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.rpc import error_details_pb2, status_pb2

from mesh.contract.templates import SEGMENT, VARIABLE
from mesh.control.resources.view import BODY_BYTES_MAX, View

LUA_FILTER: Final = "envoy.filters.http.lua"
_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http."
_LUA: Final = Path(__file__).with_name("transcoding.lua")


def filters(view: View) -> list[dict[str, Any]]:
    """In the order of the request: what the transcoder would let pass is refused, then it is transcoded."""
    script = {"inline_string": "\n".join((*_tables(view), _LUA.read_text()))}
    bound = sorted({method.service for method in view.methods("private") if method.http})
    transcoder = {
        "@type": f"{_TYPE}grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor_bin": base64.b64encode(_descriptors()).decode(),
        "services": bound,
        "auto_mapping": False,
        "convert_grpc_status": True,
        "request_validation_options": {
            "reject_unknown_query_parameters": True,
            "reject_binding_body_field_collisions": True,
        },
        "print_options": {"preserve_proto_field_names": True, "always_print_primitive_fields": True},
        "max_request_body_size": BODY_BYTES_MAX,
    }
    return [
        {"name": LUA_FILTER, "typed_config": {"@type": f"{_TYPE}lua.v3.Lua", "default_source_code": script}},
        {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder},
    ]


def untouched() -> dict[str, Any]:
    """For routes whose answers are no gRPC: the per-route setting that leaves them as they are."""
    return {LUA_FILTER: {"@type": f"{_TYPE}lua.v3.LuaPerRoute", "disabled": True}}


def _descriptors() -> bytes:
    """The contract's files, and those of google.rpc.Status and its details, without which an error has no JSON."""
    files = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files("mesh").joinpath("generated/contract.binpb").read_bytes()
    )
    known = {file.name for file in files.file}
    wanted = [any_pb2.DESCRIPTOR, duration_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR]
    for file in wanted:
        if file.name not in known:
            file.CopyToProto(files.file.add())
    return files.SerializeToString(deterministic=True)


def _tables(view: View) -> tuple[str, str]:
    """The script's MESSAGES and BODIES."""
    pool = descriptor_pool.Default()
    bodies: list[str] = []
    messages: dict[str, str] = {}
    for method in view.methods("private"):
        request = pool.FindMessageTypeByName(method.request)
        for rule in method.http:
            if rule.body:
                body = request if rule.body == "*" else request.fields_by_name[rule.body].message_type
                assert body is not None, f"{method.full_name}: a body must be a message"
                _add(body, messages)
                row = f'verb = "{rule.verb}", pattern = "{_pattern(rule.template)}", message = "{body.full_name}"'
                bodies.append(f"  {{{row}}},")
    known = [f'  ["{name}"] = {{{fields}}},' for name, fields in sorted(messages.items())]
    return (_table("MESSAGES", known), _table("BODIES", bodies))


def _table(name: str, rows: list[str]) -> str:
    return "\n".join((f"local {name} = {{", *rows, "}"))


def _add(message: Descriptor, messages: dict[str, str]) -> None:
    """The fields of a message under both of the names that JSON may use, and of all messages inside it."""
    if message.full_name in messages:
        return
    messages[message.full_name] = ""
    entries: dict[str, str] = {}
    for field in message.fields:
        inner = _inner(field)
        entry = f'{{name = "{field.name}"' + (f', message = "{inner.full_name}"' if inner else "") + "}"
        entries.update({field.name: entry, field.json_name: entry})
        if inner:
            _add(inner, messages)
    messages[message.full_name] = ", ".join(f'["{name}"] = {entry}' for name, entry in sorted(entries.items()))


def _inner(field: FieldDescriptor) -> Descriptor | None:
    """The message whose fields a value may hold; None for plain values and for maps, whose names are data."""
    inner = field.message_type
    if inner is None or inner.GetOptions().map_entry or inner.full_name.startswith("google.protobuf."):
        return None
    return inner


def _pattern(template: str) -> str:
    """A path template as a Lua pattern."""
    parts = VARIABLE.split(template)[::2]
    return "^" + SEGMENT.join(part.replace("-", "%-").replace(".", "%.") for part in parts) + "$"
