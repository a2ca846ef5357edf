"""A dead letter holds what was sent, also what PostgreSQL cannot hold as text."""

import json

from sync_bridge.ledger.dead_letters import headers_json


def test_headers_keep_their_order_and_their_repeats() -> None:
    assert json.loads(headers_json([("a", b"1"), ("b", None), ("a", b"2")])) == [
        {"name": "a", "value": "1"},
        {"name": "b", "value": None},
        {"name": "a", "value": "2"},
    ]


def test_headers_that_are_no_text_are_kept_as_base64() -> None:
    assert json.loads(headers_json([("a", b"\xff"), ("b", b"\0")])) == [
        {"name": "a", "base64": "/w=="},
        {"name": "b", "base64": "AA=="},
    ]
