"""Messages as JSON Schema (2020-12): protobuf's mapping to JSON, and in requests the rules of the fields besides.

A rule that JSON Schema has no words for is left out: the server names it when it is broken.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import protovalidate
from buf.validate import validate_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from mesh.contract.comments import comments

Schema = dict[str, Any]

_PACKAGE: Final = "isthmus."
_WIDE: Final = {FieldDescriptor.CPPTYPE_INT64: "int64", FieldDescriptor.CPPTYPE_UINT64: "uint64"}
_NARROW: Final = {FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1), FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1)}
_REAL: Final = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
# Of a rule, what JSON Schema calls it.
_NUMBERS: Final = {"gte": "minimum", "gt": "exclusiveMinimum", "lte": "maximum", "lt": "exclusiveMaximum"}
_TEXTS: Final = {"min_len": "minLength", "max_len": "maxLength", "pattern": "pattern"}
_FORMATS: Final = {"email": "email", "hostname": "hostname", "uri": "uri", "uuid": "uuid"}
_LISTS: Final = {"min_items": "minItems", "max_items": "maxItems", "unique": "uniqueItems"}
_MAPS: Final = {"min_pairs": "minProperties", "max_pairs": "maxProperties"}
_BASE64: Final = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


class Schemas:
    """The schemas of requests (`asked`), or of answers, and of all messages inside them, each once.

    A request takes the fields that its message has, and no others; an answer may have more from a newer server.
    """

    def __init__(self, *, asked: bool) -> None:
        self._asked = asked
        self._validator = protovalidate.Validator()
        # By the name under which schemas refer to them.
        self.definitions: dict[str, Schema] = {}

    def reference(self, message: Descriptor) -> Schema:
        """A reference to a message's schema, which is made unless it was."""
        name = f"{'request' if self._asked else 'answer'}.{message.full_name.removeprefix(_PACKAGE)}"
        if name not in self.definitions:
            self.definitions[name] = {}
            self.definitions[name] = self.message(message)
        return {"$ref": f"#/components/schemas/{name}"}

    def message(self, message: Descriptor, without: Collection[str] = (), given: Collection[str] = ()) -> Schema:
        """A message's own schema. without: fields that it does not have here. given: that need not be there."""
        fields = [field for field in message.fields if field.name not in without]
        needed = self._needed(message) - {*without, *given}
        made: Schema = {"type": "object", "properties": {field.name: self.field(field) for field in fields}}
        if needed:
            made["required"] = sorted(needed)
        if self._asked:
            made["additionalProperties"] = False
        return _described(made, message.full_name)

    def field(self, field: FieldDescriptor) -> Schema:
        """What the value of a field may be."""
        rules = field.GetOptions().Extensions[validate_pb2.field] if self._asked else validate_pb2.FieldRules()
        return _described(self._any(field, rules), field.full_name)

    def _any(self, field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Schema:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            made = {"type": "object", "additionalProperties": self._one(value, rules.map.values)}
            names = self._one(key, rules.map.keys)
            if names.keys() - {"type"}:
                made["propertyNames"] = names
            return made | _ruled(rules.map, _MAPS)
        if field.is_repeated:
            return {"type": "array", "items": self._one(field, rules.repeated.items), **_ruled(rules.repeated, _LISTS)}
        made = self._one(field, rules)
        if rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE and made.get("type") == "string":
            return {"anyOf": [{"const": ""}, made]}
        return made

    def _one(self, field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Schema:
        """One value, whether or not there may be several."""
        kind = field.cpp_type
        if field.message_type is not None:
            return self.reference(field.message_type)
        if field.enum_type is not None:
            return {"type": "string", "enum": list(_names(field, rules.enum))}
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return {"type": "boolean"}
        if kind in _REAL:
            # Infinity and what is no number have names.
            return {"type": ["number", "string"]}
        if field.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64", "pattern": _BASE64}
        if kind == FieldDescriptor.CPPTYPE_STRING:
            return {"type": "string", **_text(rules.string)}
        return self._number(field, rules)

    def _number(self, field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Schema:
        ruled = getattr(rules, rules.WhichOneof("type") or "int64")
        bounds = _ruled(ruled, _NUMBERS)
        if ruled.not_in:
            bounds["not"] = {"enum": list(ruled.not_in)}
        wide = _WIDE.get(field.cpp_type)
        if wide is not None:
            # Larger than the numbers of most readers, so answers have it as text; either will do to ask with.
            least, most = (0, 2**64 - 1) if wide == "uint64" else (-(2**63), 2**63 - 1)
            if not self._asked:
                return {"type": "string", "format": wide}
        else:
            least, most = _NARROW[field.cpp_type]
        if "exclusiveMinimum" not in bounds:
            bounds.setdefault("minimum", least)
        if "exclusiveMaximum" not in bounds:
            bounds.setdefault("maximum", most)
        return {"type": "integer", **({"format": wide} if wide else {}), **bounds}

    def _needed(self, message: Descriptor) -> set[str]:
        """Fields without which a request breaks a rule; of an answer, those that are always written."""
        if self._asked:
            empty = message_factory.GetMessageClass(message)()
            broken = [each.proto.field for each in self._validator.collect_violations(empty)]
            return {path.elements[0].field_name for path in broken if path is not None and path.elements}
        return {field.name for field in message.fields if not field.has_presence}


def _described(schema: Schema, name: str) -> Schema:
    said = comments().get(name)
    return {**schema, "description": said} if said else schema


def _ruled(rules: Any, words: Mapping[str, str]) -> Schema:
    """The rules that are set, in JSON Schema's words."""
    return {words[field.name]: value for field, value in rules.ListFields() if field.name in words}


def _text(rules: validate_pb2.StringRules) -> Schema:
    made = _ruled(rules, _TEXTS)
    if rules.prefix:
        made.setdefault("pattern", f"^{re.escape(rules.prefix)}")
    kind = rules.WhichOneof("well_known")
    if kind in _FORMATS:
        made |= {"format": _FORMATS[kind], "minLength": made.get("minLength", 1)}
    listed = list(getattr(rules, "in"))
    return made | ({"enum": listed} if listed else {})


def _names(field: FieldDescriptor, rules: validate_pb2.EnumRules) -> Iterator[str]:
    only, never = list(getattr(rules, "in")), list(rules.not_in)
    assert field.enum_type is not None
    for value in field.enum_type.values:
        if value.number not in never and (not only or value.number in only):
            yield value.name
