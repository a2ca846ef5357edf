"""The input shield: what it stops, what it lets people write, and what it says.

The attacks are those of the wheel fray (MIT), fetched with the data sets and read by path; the people are Faker's, in
thirteen languages, and a list of sentences that are hard to tell from attacks.
"""

import json
from collections.abc import Iterator

import pytest
from faker import Faker
from isthmus.catalog.v1 import catalog_pb2
from isthmus.oauth.v1 import oauth_pb2
from isthmus.orders.v1 import orders_pb2

from deploy.local.settings import LauncherSettings
from mesh.contract import load
from mesh.errors import InvalidArgument
from security.gateway.shield import DEPTH_MAX, TEXTS_MAX, Mode, Shield, canonical, suspicion

CONTRACT = load()
PLACE = "/isthmus.orders.v1.Orders/PlaceOrder"
ATTACKS = [
    "sqli/comprehensive",
    "sqli/waf_bypass_sqli",
    "sqli/advanced",
    "xss/cloudflare_akamai_bypass",
    "xss/dom_and_modern",
    "xss/event_handlers",
    "xss/waf_bypass_advanced",
    "xss/advanced",
]
BLOCKED_MIN = 0.98
LOCALES = [
    "en_US",
    "en_GB",
    "en_IE",
    "zh_CN",
    "zh_TW",
    "fr_FR",
    "de_DE",
    "it_IT",
    "ar_SA",
    "ja_JP",
    "es_MX",
    "hu_HU",
    "uk_UA",
]
KINDS = [
    "name",
    "address",
    "company",
    "street_address",
    "phone_number",
    "email",
    "sentence",
    "text",
    "url",
    "user_agent",
    "job",
    "uuid4",
]
EACH = 15
HARD = """\
O'Brien & Sons
D'Angelo, 1 O'Connell Street
Rock 'n' Roll
Select a gift from our store
(select one)
Order by phone, group by size
Drop us a line; we answer
Union Square, Select Comfort
JavaScript: The Definitive Guide (7th ed)
a < b and c > d
I <3 you
5 > 3 or 2 < 4?
either 'yes' or 'no'
He said "hi" and left
it's 50% off - today only
C# & C++ in depth
#1 choice -- really
Tom 'and' Jerry
10 or 20 pieces
Please update my address and set it as default
delete from my cart the red one
insert into the slot marked A
create table decorations
drop table lamp, 40 cm
Script font, on sale = now
online = cheaper
data: text, html and more
"A" or "B" is fine
case when closed then open it
Alert (red)
Sleep (8 hours) well
version (2)
document.pdf
window.seat requested
https://shop.example/a?b=1&c=2
John Smith <john@example.org>
[link](https://shop.example)
50 % cotton, 100% wool; wash at 30
5' 11", or 6'
3'-4' wide
L'Or\u00e9al; l'eau d'Issey
${amount}? no: 5
#{1}
'--' is a dash
grant us leave; begin at 5
load; set; go
Wir sind 'da' und 'dort'
and 5 = five
between 5 and 10
""".splitlines()


def attacks() -> list[str]:
    folder = LauncherSettings().cache / "datasets" / "fray" / "payloads"
    if not folder.is_dir():
        pytest.skip("NOT TESTED: no attack corpus here (make setup fetches it)")
    return [
        each["payload"] for name in ATTACKS for each in json.loads((folder / f"{name}.json").read_text())["payloads"]
    ]


def people() -> Iterator[str]:
    for locale in LOCALES:
        faker = Faker(locale)
        faker.seed_instance(7)
        for _ in range(EACH):
            yield from (str(getattr(faker, kind)()) for kind in KINDS)


def test_nearly_every_attack_is_seen() -> None:
    found = attacks()
    missed = [text for text in found if suspicion(text) is None]
    assert len(found) > 400
    assert 1 - len(missed) / len(found) >= BLOCKED_MIN, missed


def test_what_people_write_is_no_attack() -> None:
    assert [text for text in (*people(), *HARD) if suspicion(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "%27%20OR%20%271%27%3D%271",
        "%2527 union%2520select 1",
        "1/**/UNION/*!50000SELECT*/password/**/FROM/**/users",
        "\uff1cscript\uff1ealert(1)",
        "&lt;img src=x onerror=alert(1)&gt;",
        "\\u003cscript\\u003e",
        "<scr\u200bipt>",
        "java\tscript:alert(1)",
    ],
)
def test_a_disguise_is_taken_off(text: str) -> None:
    assert suspicion(text), canonical(text)


def framed(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


def order(sku: str) -> bytes:
    return framed(orders_pb2.PlaceOrderRequest(lines=[orders_pb2.OrderLine(sku=sku)]).SerializeToString())


def test_a_call_is_refused_by_the_field_that_holds_it_or_only_counted() -> None:
    with pytest.raises(InvalidArgument, match="sku") as refused:
        Shield(CONTRACT, Mode.ENFORCE).check(PLACE, order("' OR 1=1 --"))
    assert "1=1" not in str(refused.value.to_status())
    Shield(CONTRACT, Mode.SHADOW).check(PLACE, order("' OR 1=1 --"))
    Shield(CONTRACT, Mode.ENFORCE).check(PLACE, order("O'Brien"))
    Shield(CONTRACT, Mode.ENFORCE).check(PLACE, b"")


def test_secrets_may_be_anything_and_markup_is_expected_where_the_contract_says() -> None:
    shield = Shield(CONTRACT, Mode.ENFORCE)
    account = oauth_pb2.CreateAccountRequest(member_id="m", login="ada", password="' OR 1=1 -- <b>")
    shield.check("/isthmus.oauth.v1.Accounts/CreateAccount", framed(account.SerializeToString()))
    put = "/isthmus.catalog.v1.Catalog/PutContentItem"
    page = catalog_pb2.PutContentItemRequest(item=catalog_pb2.ContentItem(title="Us", body="<p>We</p>"))
    shield.check(put, framed(page.SerializeToString()))
    page.item.title = "<script>"
    with pytest.raises(InvalidArgument):
        shield.check(put, framed(page.SerializeToString()))


@pytest.mark.parametrize("body", [b"x", b"\1\0\0\0\0", framed(b"\xff\xff"), framed(b"") + framed(b"")])
def test_what_is_not_one_whole_message_goes_no_further(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match="INPUT_MALFORMED"):
        Shield(CONTRACT, Mode.SHADOW).check(PLACE, body)


def test_a_call_holds_so_many_texts_and_no_more() -> None:
    request = orders_pb2.PlaceOrderRequest(lines=[orders_pb2.OrderLine(sku="a")] * (TEXTS_MAX + 1))
    with pytest.raises(InvalidArgument, match="INPUT_TOO_LARGE"):
        Shield(CONTRACT, Mode.SHADOW).check(PLACE, framed(request.SerializeToString()))
    assert DEPTH_MAX < 100
