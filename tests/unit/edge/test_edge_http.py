"""What the public sees of an edge node over HTTP."""

import json
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import protovalidate
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from isthmus.ads.v1 import ads_pb2
from isthmus.content.v1 import content_pb2
from isthmus.events.v1 import events_pb2

from public_edge.crawlers import Bot
from public_edge.http.body import BODY_BYTES_MAX
from public_edge.spool.event import Kind
from public_edge.spool.spool import SpoolLimits
from tests.unit.edge.edge_room import BOTS_BURST, EdgeRoom

DECIDE = "/v1/ads:decide"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
ASK = json.dumps({"slot": "top"}).encode()
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"
CRAWLER = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
# The same rule, broken over HTTP and gRPC.
BAD_FIELDS: list[dict[str, object]] = [
    {},
    {"slot": ""},
    {"slot": "x" * 65},
    {"slot": "Top"},
    {"slot": "top\n"},
    {"slot": "tóp"},
    {"slot": "top", "features": {f"f{number}": "v" for number in range(17)}},
    {"slot": "top", "features": {"": "v"}},
    {"slot": "top", "features": {"f" * 65: "v"}},
    {"slot": "top", "features": {"f": "v" * 129}},
    {"slot": "top", "viewer": "v" * 129},
    {"slot": "top", "source_time_us": -1},
    {"slot": "top", "source_time_us": 2**63},
    {"slot": "top", "source_time_us": 1.5},
    {"slot": "top", "unknown": 1},
    {"slot": 7},
    {"slot": "top", "features": []},
    {"slot": "top", "features": {"f": 1}},
]
GOOD_FIELDS: list[dict[str, object]] = [
    {"slot": "top"},
    {"slot": "t" * 64},
    {"slot": "top", "features": {f"f{number}": "v" * 128 for number in range(16)}, "viewer": "é" * 128},
    {"slot": "top", "source_time_us": 2**63 - 1},
    {"slot": "top", "source_time_us": "1700000000000000"},
]


def grpc_refuses(fields: dict[str, object], request: type[Message] = ads_pb2.DecideRequest) -> bool:
    try:
        message = json_format.ParseDict(fields, request())
        protovalidate.validate(message)
    except (json_format.ParseError, protovalidate.ValidationError):
        return True
    return False


def as_query(fields: dict[str, object]) -> str | None:
    """The fields as a query; None where a query cannot say the same, because in it all is text."""
    if any(isinstance(value, list) for value in fields.values()) or 7 in fields.values():
        return None
    features = fields.get("features", {})
    assert isinstance(features, dict)
    if any(isinstance(value, int) for value in features.values()):
        return None
    flat = {name: value for name, value in fields.items() if name != "features"}
    return urlencode(flat | {f"features.{name}": value for name, value in features.items()})


@pytest.mark.parametrize("fields", BAD_FIELDS)
async def test_http_refuses_what_the_contract_refuses(room: EdgeRoom, fields: dict[str, object]) -> None:
    answer = await room.ask("POST", DECIDE, json.dumps(fields).encode())
    assert answer.status == 400
    assert grpc_refuses(fields)
    assert room.events() == []


@pytest.mark.parametrize("fields", [fields for fields in BAD_FIELDS if as_query(fields) is not None])
async def test_a_query_is_refused_as_a_body_is(room: EdgeRoom, fields: dict[str, object]) -> None:
    answer = await room.ask("GET", f"{DECIDE}?{as_query(fields)}")
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert room.events() == []


@pytest.mark.parametrize("fields", GOOD_FIELDS)
async def test_a_query_says_the_same_as_a_body(room: EdgeRoom, fields: dict[str, object]) -> None:
    by_body = await room.ask("POST", DECIDE, json.dumps(fields).encode(), x_request_id="one")
    by_query = await room.ask("GET", f"{DECIDE}?{as_query(fields)}", x_request_id="one")
    assert (by_body.status, by_body.body) == (by_query.status, by_query.body)
    events = room.events()
    assert [event.body for event in events[::2]] == [event.body for event in events[1::2]]


@pytest.mark.parametrize("fields", GOOD_FIELDS)
async def test_http_takes_what_the_contract_takes(room: EdgeRoom, fields: dict[str, object]) -> None:
    answer = await room.ask("POST", DECIDE, json.dumps(fields).encode())
    assert answer.status in (200, 404)
    assert not grpc_refuses(fields)


async def test_a_name_is_the_same_however_it_is_encoded(room: EdgeRoom) -> None:
    plain, encoded = (f"{DECIDE}?slot=top&{name}=1" for name in ("features.x", "%66eatures%2Ex"))
    answers = [await room.ask("GET", asked, x_request_id="one") for asked in (plain, encoded)]
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].body == answers[1].body
    one, other = room.events()
    assert one.body == other.body
    assert (await room.ask("GET", f"{encoded}&features.x=2")).status == 400


RECEIPT: dict[str, object] = {"slug": "about", "delivery_id": "0" * 31 + "a", "step": "RECEIPT_STEP_OPENED"}


@pytest.mark.parametrize(
    "changed",
    [
        {"slug": ""},
        {"slug": "About"},
        {"slug": "a" * 129},
        {"slug": "about\n"},
        {"delivery_id": ""},
        {"delivery_id": "0" * 33},
        {"delivery_id": "A" * 32},
        {"step": "RECEIPT_STEP_UNSPECIFIED"},
        {"step": "OPENED"},
        {"source_time_us": -1},
        {"reader": "somebody"},
    ],
)
async def test_a_receipt_is_refused_over_http_as_the_contract_refuses_it(
    room: EdgeRoom, changed: dict[str, object]
) -> None:
    told = RECEIPT | changed
    assert (await room.ask("POST", "/v1/receipts", json.dumps(told).encode())).status == 400
    assert grpc_refuses(told, content_pb2.TellReceiptRequest)
    assert room.events() == []


async def test_a_receipt_that_is_told_twice_is_one_event_and_a_crawlers_is_another(room: EdgeRoom) -> None:
    # As if Kafka had everything already, so that no answer waits for it.
    room.spool.quorum.reached(1 << 62)
    assert not grpc_refuses(RECEIPT, content_pb2.TellReceiptRequest)
    for agent in ("Mozilla/5.0", "Mozilla/5.0", CRAWLER):
        answer = await room.ask("POST", "/v1/receipts", json.dumps(RECEIPT).encode(), user_agent=agent)
        assert (answer.status, answer.json) == (200, {})
    receipts = [events_pb2.ContentReceipt.FromString(event.body) for event in room.events()]
    assert [(receipt.slug, receipt.step, receipt.crawler) for receipt in receipts] == [
        ("about", "opened", False),
        ("about", "opened", False),
        ("about", "opened", True),
    ]
    assert receipts[0].event_id == receipts[1].event_id != receipts[2].event_id


@pytest.mark.parametrize(
    ("method", "target", "body", "headers", "status"),
    [
        ("POST", DECIDE, b"", {}, 400),
        ("POST", DECIDE, b"{", {}, 400),
        ("POST", DECIDE, b"[" * 15_000, {}, 400),
        ("POST", DECIDE, b'{"slot":"\xff\xfe"}', {}, 400),
        ("POST", DECIDE, b"null", {}, 400),
        ("POST", DECIDE, b'{"slot":"elsewhere"}', {}, 404),
        ("POST", DECIDE, b"x" * (BODY_BYTES_MAX + 1), {}, 413),
        ("POST", DECIDE, b"x" * (BODY_BYTES_MAX + 1), {"transfer_encoding": "chunked"}, 413),
        ("POST", DECIDE, ASK, {"content_length": "-1"}, 413),
        ("POST", DECIDE, ASK, {"content_type": "text/plain"}, 415),
        ("POST", DECIDE, ASK, {"content_type": "application/json; charset=latin-1"}, 415),
        ("DELETE", DECIDE, b"", {}, 405),
        ("GET", DECIDE + "?slot=top&slot=top", b"", {}, 400),
        ("GET", DECIDE + "?slot=top&features.f=1&features.f=2", b"", {}, 400),
        ("GET", DECIDE + "?slot=%ff%fe", b"", {}, 400),
        ("GET", DECIDE + "?slot=top" + "&a=b" * 40, b"", {}, 400),
        ("GET", DECIDE + "?slot=elsewhere", b"", {}, 404),
        ("GET", DECIDE + "?slot=top&viewer=" + "x" * 9000, b"", {}, 414),
        ("DELETE", "/v1/content/about", b"", {}, 405),
        ("POST", "/v1/clicks/x", b"", {}, 405),
        ("GET", "/", b"", {}, 404),
        ("GET", "/v1/content/about/more", b"", {}, 404),
        ("GET", "/v1/content/no-such-item", b"", {}, 404),
        ("GET", "/v1/content/About", b"", {}, 400),
        ("GET", "/v1/content/", b"", {}, 400),
        ("GET", "/v1/content/" + "x" * 129, b"", {}, 400),
        ("GET", "/v1/content/about?locale=../etc", b"", {}, 400),
        ("GET", "/v1/content/about?locale=en&locale=de", b"", {}, 400),
        ("GET", "/v1/content/about?unknown=1", b"", {}, 400),
        ("GET", "/v1/content/about?locale=%ff%fe", b"", {}, 400),
        ("GET", "/v1/content/about?source_time_us=-1", b"", {}, 400),
        ("GET", "/v1/content/about?source_time_us=9223372036854775808", b"", {}, 400),
        ("GET", "/v1/content/about?" + "x" * 9000, b"", {}, 414),
        ("GET", "/v1/" + "x" * 3000, b"", {}, 414),
        ("GET", "/v1/clicks/", b"", {}, 400),
        ("GET", "/v1/clicks/nonsense", b"", {}, 400),
        ("GET", "/v1/clicks/" + "A" * 100, b"", {}, 403),
        ("GET", "/v1/clicks/" + "A" * 1000, b"", {}, 400),
        ("GET", "/v1/clicks/%00%01", b"", {}, 400),
    ],
)
async def test_bad_input_gets_a_problem_document(
    room: EdgeRoom, method: str, target: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = await room.ask(method, target, body, **headers)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json
    assert problem["status"] == status
    assert {"type", "title", "detail"} <= problem.keys()
    shown = answer.body.decode().lower()
    assert not any(word in shown for word in ("traceback", "public_edge", "msgspec", "exception", ".py"))
    assert room.events() == []


async def test_a_wrong_method_is_told_the_right_ones(room: EdgeRoom) -> None:
    assert (await room.ask("PUT", "/v1/content/about")).headers["allow"] == "GET, HEAD"


async def test_an_unknown_field_is_not_repeated_to_its_sender(room: EdgeRoom) -> None:
    answer = await room.ask("POST", DECIDE, b'{"slot":"top","secret-name":1}')
    assert b"secret-name" not in answer.body


async def test_an_ad_comes_with_a_link_that_leads_to_its_landing_page(room: EdgeRoom) -> None:
    answer = await room.ask("POST", DECIDE, ASK, x_request_id="r1", traceparent=TRACE)
    assert answer.status == 200
    assert answer.json["creative"] == {
        "campaign_id": "shoes",
        "creative_id": "shoes-1",
        "title": "Shoes",
        "image_url": "https://images.example/1",
    }
    click = await room.ask(
        "GET", urlsplit(answer.json["click_url"]).path + "?fbclid=added-on-the-way", x_request_id="r2"
    )
    assert (click.status, click.headers["location"]) == (302, "https://shop.example/shoes")
    assert click.body == b""
    impression, clicked = room.events()
    shown = events_pb2.Impression.FromString(impression.body)
    followed = events_pb2.Click.FromString(clicked.body)
    assert shown.event_id == answer.json["impression_id"] == followed.impression_id == impression.event_id.hex()
    assert (shown.slot, shown.campaign_id, shown.node) == ("top", "shoes", "edge-1")
    assert impression.traceparent.decode() == TRACE
    assert (followed.campaign_id, followed.creative_id, followed.slot) == ("shoes", "shoes-1", "top")
    assert not followed.replayed


async def test_an_impression_holds_all_that_was_said_of_it(room: EdgeRoom) -> None:
    asked = {"slot": "top", "features": {"a": "1", "b": "2"}, "viewer": "v", "source_time_us": 5}
    await room.ask("POST", DECIDE, json.dumps(asked).encode(), user_agent=CRAWLER)
    shown = events_pb2.Impression.FromString(room.events()[0].body)
    assert dict(shown.features) == {"a": "1", "b": "2"}
    assert (shown.source_time_us, shown.accepted_time_us) == (5, room.clock.us)
    assert shown.crawler
    assert b"viewer" not in shown.SerializeToString()


async def test_a_request_that_a_gateway_repeats_is_one_event_and_one_choice(tmp_path: Path, room: EdgeRoom) -> None:
    other = EdgeRoom(tmp_path / "other")
    answers = [await node.ask("POST", DECIDE, ASK, x_request_id="same") for node in (room, other)]
    assert answers[0].json == answers[1].json
    path = urlsplit(answers[0].json["click_url"]).path
    for node in (room, other, room):
        await node.ask("GET", path, x_request_id="same-click")
        await node.ask("GET", "/v1/content/about", x_request_id="same-view")
    ids = {(event.kind, event.event_id) for node in (room, other) for event in node.events()}
    assert len(ids) == 3
    clicks = [event for event in room.events() if event.kind == Kind.CLICK]
    assert not any(events_pb2.Click.FromString(event.body).replayed for event in clicks)
    other.spool.close()


async def test_a_replayed_click_still_leads_on_and_is_flagged(room: EdgeRoom) -> None:
    path = urlsplit((await room.ask("POST", DECIDE, ASK)).json["click_url"]).path
    for request_id in ("first", "second"):
        assert (await room.ask("GET", path, x_request_id=request_id)).status == 302
    clicks = [events_pb2.Click.FromString(event.body) for event in room.events() if event.kind == Kind.CLICK]
    assert [click.replayed for click in clicks] == [False, True]


BOTS = {
    Bot.INDEX: CRAWLER,
    Bot.HARVEST: "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
    Bot.TOOL: "python-requests/2.32.3",
}


@pytest.mark.parametrize("bot", list(Bot), ids=lambda bot: bot.name)
async def test_a_class_of_bots_that_asks_too_often_is_refused_and_nobody_else(room: EdgeRoom, bot: Bot) -> None:
    paths = (f"{DECIDE}?slot=top", "/v1/content/about", "/v1/content/nothing")
    # By whichever way it asks: ads are answered at once, pages by the loop.
    greedy = [await room.ask("GET", paths[at % 3], user_agent=BOTS[bot]) for at in range(BOTS_BURST + 3)]
    refused = [answer for answer in greedy if answer.status == 429]
    assert refused == greedy[BOTS_BURST:]
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
    assert refused[0].json["reason"] == "RATE_EXCEEDED"
    for other, agent in BOTS.items():
        assert (await room.ask("GET", paths[0], user_agent=agent)).status == (429 if other is bot else 200)
    people = [await room.ask("GET", paths[0], user_agent=BROWSER) for _ in range(2 * BOTS_BURST)]
    assert {answer.status for answer in people} == {200}
    room.clock.us += 1_000_000
    assert (await room.ask("GET", paths[0], user_agent=BOTS[bot])).status == 200


async def test_a_click_of_a_crawler_is_flagged(room: EdgeRoom) -> None:
    path = urlsplit((await room.ask("POST", DECIDE, ASK)).json["click_url"]).path
    await room.ask("GET", path, user_agent=CRAWLER)
    await room.ask("GET", path, user_agent=BROWSER)
    clicks = [events_pb2.Click.FromString(event.body) for event in room.events() if event.kind == Kind.CLICK]
    assert [click.crawler for click in clicks] == [True, False]


async def test_an_expired_link_is_gone_and_one_whose_campaign_ended_is_not_found(room: EdgeRoom) -> None:
    path = urlsplit((await room.ask("POST", DECIDE, ASK)).json["click_url"]).path
    room.chooser.index = type(room.chooser.index)()
    assert (await room.ask("GET", path)).json["reason"] == "CAMPAIGN_GONE"
    room.clock.us += 3_600_000_000
    expired = await room.ask("GET", path)
    assert (expired.status, expired.json["status"]) == (410, 410)
    assert room.kinds() == [Kind.IMPRESSION]


async def test_a_slot_with_nothing_to_show_is_counted_and_shows_nothing(room: EdgeRoom) -> None:
    room.chooser.index = type(room.chooser.index)(plans={"top": ()})
    answer = await room.ask("POST", DECIDE, ASK)
    assert answer.json == {"impression_id": "", "click_url": ""}
    assert events_pb2.Impression.FromString(room.events()[0].body).campaign_id == ""


async def test_a_click_that_cannot_be_recorded_is_refused_and_an_impression_is_shed(tmp_path: Path) -> None:
    room = EdgeRoom(tmp_path / "full", SpoolLimits(bytes_max=400))
    path = ""
    for _ in range(5):
        answer = await room.ask("POST", DECIDE, ASK)
        assert answer.status == 200, "an ad is shown whether or not its impression could be kept"
        path = urlsplit(answer.json["click_url"]).path
    assert room.spool.counters.shed > 0
    refused = [await room.ask("GET", path, x_request_id=f"r{number}") for number in range(5)][-1]
    assert (refused.status, refused.json["reason"], refused.headers["retry-after"]) == (503, "EVENT_NOT_ACCEPTED", "1")
    room.spool.close()


async def test_content_can_be_kept_by_caches(room: EdgeRoom) -> None:
    answer = await room.ask("GET", "/v1/content/about?locale=de-AT")
    assert answer.status == 200
    assert answer.json["slug"] == "about"
    assert answer.json["version"] == "3"
    assert answer.headers["content-language"] == "en"
    assert answer.headers["cache-control"] == "public, max-age=60"
    assert answer.headers["vary"] == "accept-language"
    again = await room.ask("GET", "/v1/content/about", if_none_match=answer.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    views = [events_pb2.ContentView.FromString(event.body) for event in room.events()]
    assert [view.not_modified for view in views] == [False, True]


async def test_head_shows_the_headers_and_is_no_view(room: EdgeRoom) -> None:
    answer = await room.ask("HEAD", "/v1/content/about")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["etag"]
    assert (await room.ask("HEAD", "/v1/content/none")).status == 404
    assert room.events() == []


async def test_a_fault_of_ours_tells_nothing(room: EdgeRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(room.chooser, "choose", broken)
    answer = await room.ask("POST", DECIDE, ASK)
    assert answer.status == 500
    assert b"hunter2" not in answer.body
    assert room.app.answers["ads.decide", 500] == 1


async def test_looking_is_neither_showing_nor_clicking(room: EdgeRoom) -> None:
    shown = await room.ask("GET", DECIDE + "?slot=top")
    before = room.events()
    link = urlsplit(shown.json["click_url"]).path
    for target, status in ((DECIDE + "?slot=top", 200), (link, 302), ("/v1/content/about", 200)):
        answer = await room.ask("HEAD", target)
        assert (answer.status, answer.body) == (status, b"")
    assert (await room.ask("HEAD", link)).headers["location"] == "https://shop.example/shoes"
    assert (await room.ask("HEAD", "/v1/clicks/nonsense")).status == 400
    assert room.events() == before
