"""The OpenAPI document says what the contract says: every binding, the rules of the fields, and who may ask."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import protovalidate
import pytest
import schemathesis
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings

from mesh.contract import MethodPolicy, load
from mesh.contract.openapi import document

URL = "https://mesh.example"
CONTRACT = load()
DOCUMENT = document(CONTRACT, URL)
BOUND = [method for _, method in sorted(CONTRACT.methods.items()) if method.http]
# Reading it resolves every reference, and refuses what OpenAPI 3.1 does not know.
READ = schemathesis.openapi.from_dict(json.loads(json.dumps(DOCUMENT)))
VALIDATOR = protovalidate.Validator()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, found in DOCUMENT["paths"].items():
        for verb, operation in found.items():
            yield verb.upper(), path, operation


def operation_of(method: MethodPolicy, number: int = 0) -> dict[str, Any]:
    rule = method.http[number]
    path = re.sub(r"\{(?:\w+\.)*(\w+)\}", r"{\1}", rule.template)
    found: dict[str, Any] = DOCUMENT["paths"][path][rule.verb.lower()]
    return found


def test_it_has_every_binding_and_no_other() -> None:
    told = {operation["operationId"] for _, _, operation in operations()}
    verbs = [verb for method in BOUND for rule in method.http for verb in rule.verbs(method.zone)]
    assert len(told) == len(list(operations())) == len(verbs)
    assert all(operation_of(method, number) for method in BOUND for number in range(len(method.http)))


def test_every_tool_can_read_it() -> None:
    assert all(READ.find_operation_by_id(operation["operationId"]) for _, _, operation in operations())


@pytest.mark.parametrize("method", BOUND, ids=lambda method: method.full_name)
def test_it_says_who_may_ask(method: MethodPolicy) -> None:
    told = operation_of(method)
    assert told.get("security", []) == ([{"token": sorted(method.scopes)}] if method.scopes else [])
    policy = told["x-isthmus-policy"]
    assert (policy["human"], policy["step_up"]) == (method.human, method.step_up)
    # Nothing of the inside.
    assert not {"workload", "callers", "audit"} & policy.keys()


def message(method: MethodPolicy, case: Any) -> Message:
    """Path, query and body as one request, as a gateway puts them together."""
    rule = method.http[0]
    said: dict[str, Any] = dict(case.query or {})
    if rule.body == "*":
        # A body that may be left out is.
        said |= case.body if isinstance(case.body, dict) else {}
    elif rule.body:
        said[rule.body] = case.body
    for name in re.findall(r"\{([\w.]+)\}", rule.template):
        inner, _, field = name.rpartition(".")
        (said[inner] if inner else said)[field] = unquote(case.path_parameters[field])
    kind = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(method.request))
    return json_format.ParseDict(said, kind())


@pytest.mark.parametrize("method", BOUND, ids=lambda method: method.full_name)
def test_what_it_lets_ask_breaks_no_rule_of_the_fields(method: MethodPolicy) -> None:
    operation = READ.find_operation_by_id(operation_of(method)["operationId"])

    @settings(max_examples=10, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
    def holds(case: Any) -> None:
        assert [str(each.proto) for each in VALIDATOR.collect_violations(message(method, case))] == []

    holds()
