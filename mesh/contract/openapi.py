"""The contract's HTTP bindings as an OpenAPI document (3.1): what the public may ask for, how, and with which token."""

import re
from collections.abc import Iterator
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from mesh import problem
from mesh.contract.comments import comments
from mesh.contract.model import Contract, HttpRule, MethodPolicy
from mesh.contract.schema import Schema, Schemas
from mesh.contract.templates import VARIABLE

PATH: Final = "/openapi.json"
_SCHEME: Final = "token"
_PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "Why a request was refused (RFC 9457).",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string", "description": "The rule, for programs."},
        "remedy": {"type": "string", "description": "What to do, for people."},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "rule": {"type": "string"}},
                "required": ["field", "rule"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "reason"],
}

_REFUSED: Final = {
    "description": "Refused, or not answered.",
    "content": {problem.CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/problem"}}},
}


def document(contract: Contract, url: str) -> dict[str, Any]:
    """The whole document, the same for the same contract. url: where the outside finds the mesh, and its tokens."""
    asked, answered = Schemas(asked=True), Schemas(asked=False)
    found: dict[str, dict[str, Any]] = {}
    for method in (method for _, method in sorted(contract.methods.items()) if method.http):
        for number, rule in enumerate(method.http, 1):
            operation = _operation(method, rule, number, asked, answered)
            there = found.setdefault(VARIABLE.sub(_shown, rule.template), {})
            there.update({verb.lower(): _by(verb, operation) for verb in rule.verbs(method.zone)})
    scheme = {"type": "openIdConnect", "openIdConnectUrl": f"{url}/.well-known/openid-configuration"}
    schemas = {**asked.definitions, **answered.definitions, "problem": _PROBLEM}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Isthmus", "version": "v1", "description": "Compiled from the contract of the mesh."},
        "servers": [{"url": url}],
        "paths": dict(sorted(found.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {_SCHEME: scheme},
        },
    }


def _operation(method: MethodPolicy, rule: HttpRule, number: int, asked: Schemas, answered: Schemas) -> dict[str, Any]:
    service, name = method.full_name.split(".")[-2:]
    pool = descriptor_pool.Default()
    request, answer = pool.FindMessageTypeByName(method.request), pool.FindMessageTypeByName(method.response)
    bound = VARIABLE.findall(rule.template)
    made: dict[str, Any] = {
        "operationId": f"{service}_{name}" + (f"_{number}" if number > 1 else ""),
        "tags": [service],
        "parameters": [*_path(request, bound, asked), *_query(request, rule, bound, asked)],
    }
    if said := comments().get(method.full_name):
        made["description"] = said
    if rule.body:
        schema = _body(request, rule, bound, asked)
        needed = "$ref" in schema or bool(schema.get("required"))
        made["requestBody"] = {"required": needed, "content": {"application/json": {"schema": schema}}}
    made["responses"] = {**_success(method, answer, answered), "4XX": _REFUSED, "5XX": _REFUSED}
    if method.scopes or method.human or method.step_up:
        made["security"] = [{_SCHEME: sorted(method.scopes)}]
    made["x-isthmus-policy"] = {
        "human": method.human,
        "step_up": method.step_up,
        "idempotent": method.idempotent,
        "deadline_ms": method.deadline_ms,
        "rate_class": method.rate_class.name.lower(),
    }
    return made


def _by(verb: str, operation: dict[str, Any]) -> dict[str, Any]:
    """The same by HEAD: without what only a body would say."""
    if verb != "HEAD":
        return operation
    responses = operation["responses"].items()
    bare = {status: {name: value for name, value in said.items() if name != "content"} for status, said in responses}
    return {**operation, "operationId": f"{operation['operationId']}_head", "responses": bare}


def _success(method: MethodPolicy, answer: Descriptor, answered: Schemas) -> dict[str, Any]:
    if method.location_field:
        header = {"schema": {"type": "string", "format": "uri"}, "required": True}
        return {"302": {"description": "There.", "headers": {"Location": header}}}
    return {"200": {"description": "Done.", "content": {"application/json": {"schema": answered.reference(answer)}}}}


def _path(request: Descriptor, bound: list[str], asked: Schemas) -> Iterator[dict[str, Any]]:
    for name in bound:
        schema = asked.field(_field(request, name))
        # Nothing else is one whole segment of a path.
        schema.setdefault("minLength", 1)
        yield {"name": name.rpartition(".")[2], "in": "path", "required": True, "schema": schema}


def _query(request: Descriptor, rule: HttpRule, bound: list[str], asked: Schemas) -> Iterator[dict[str, Any]]:
    """Fields that go neither into the path nor into the body. How a map is written there, OpenAPI has no words for."""
    if rule.body == "*":
        return
    needed = asked.message(request).get("required", ())
    for field in request.fields:
        if field.message_type is None and field.name not in (rule.body, *bound):
            yield {
                "name": field.name,
                "in": "query",
                "required": field.name in needed,
                "schema": asked.field(field),
            }


def _body(request: Descriptor, rule: HttpRule, bound: list[str], asked: Schemas) -> Schema:
    if rule.body == "*":
        return asked.message(request, without=bound) if bound else asked.reference(request)
    inner = _field(request, rule.body).message_type
    assert inner is not None, f"{request.full_name}: a body must be a message"
    given = [name.rpartition(".")[2] for name in bound if name.startswith(f"{rule.body}.")]
    # What the path says need not be said again.
    return asked.message(inner, given=given) if given else asked.reference(inner)


def _field(message: Descriptor, path: str) -> FieldDescriptor:
    """The field that a dotted path names."""
    name, _, rest = path.partition(".")
    field = message.fields_by_name[name]
    if not rest:
        return field
    assert field.message_type is not None, f"{message.full_name}: {path} is no field"
    return _field(field.message_type, rest)


def _shown(variable: re.Match[str]) -> str:
    return "{" + variable[1].rpartition(".")[2] + "}"
