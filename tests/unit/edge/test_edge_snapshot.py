"""The node's snapshot: kept whole on the disk, and nothing unusable gets into it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from isthmus.catalog.v1 import catalog_pb2

from mesh.clock import SystemClock
from mesh.contract import load as load_contract
from public_edge.ads.catalogue import Catalogue, Share
from public_edge.ads.domain import Chooser
from public_edge.content.domain import Shelf
from public_edge.content.reading import Reader
from public_edge.recorder import Recorder
from public_edge.snapshot import convert, state
from public_edge.snapshot.convert import Unusable
from public_edge.snapshot.publisher import Publisher
from public_edge.snapshot.state import SnapshotDamaged, Source
from public_edge.spool.spool import Spool
from public_edge.spool.tracker import Tracker


def campaign(name: str = "shoes", /, **changes: object) -> catalog_pb2.Campaign:
    creative = catalog_pb2.AdCreative(
        creative_id="one", title="One", image_url="https://i.example/1", landing_url="https://shop.example/1"
    )
    fields: dict[str, object] = {"slots": ["top"], "weight": 1, "creatives": [creative], "version": 1}
    return catalog_pb2.Campaign(campaign_id=name, **{**fields, **changes})  # type: ignore[arg-type]


def test_a_snapshot_reads_back_as_saved(tmp_path: Path) -> None:
    records = {(Source.CAMPAIGN, "a"): b"1", (Source.CONTENT_ITEM, "b/zh-CN"): b"", (Source.CAMPAIGN, "é"): b"\0" * 99}
    state.save(tmp_path / "run" / "snapshot.bin", records)
    assert state.load(tmp_path / "run" / "snapshot.bin") == records
    assert state.load(tmp_path / "none") is None


def test_a_snapshot_changed_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.bin"
    state.save(path, {(Source.CAMPAIGN, "a"): b"value"})
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(SnapshotDamaged):
            state.load(path)
        path.write_bytes(whole[:at])
        with pytest.raises(SnapshotDamaged):
            state.load(path)


def test_the_difference_turns_one_state_into_the_other() -> None:
    old = {(Source.CAMPAIGN, "same"): b"1", (Source.CAMPAIGN, "changed"): b"1", (Source.CAMPAIGN, "gone"): b"1"}
    new = {(Source.CAMPAIGN, "same"): b"1", (Source.CAMPAIGN, "changed"): b"2", (Source.CAMPAIGN, "new"): b"1"}
    assert state.difference(old, new) == {
        (Source.CAMPAIGN, "changed"): b"2",
        (Source.CAMPAIGN, "new"): b"1",
        (Source.CAMPAIGN, "gone"): None,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": 0},
        {"creatives": []},
        {"slots": []},
        {"slots": ["tóp"]},
        {"targeting": {f"f{number}": "v" for number in range(5)}},
        {"creatives": [catalog_pb2.AdCreative(creative_id="x", landing_url="http://shop.example")]},
        {"creatives": [catalog_pb2.AdCreative(creative_id="x", landing_url="javascript:alert(1)")]},
        {"creatives": [catalog_pb2.AdCreative(creative_id="x", landing_url="https://a.example\r\nSet-Cookie: x=1")]},
        {"creatives": [catalog_pb2.AdCreative(creative_id="", landing_url="https://a.example")]},
    ],
)
def test_an_unusable_campaign_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(Unusable):
        convert.campaign("shoes", campaign(**changes).SerializeToString())


def test_a_campaign_under_anothers_key_is_refused() -> None:
    with pytest.raises(Unusable):
        convert.campaign("hats", campaign("shoes").SerializeToString())
    with pytest.raises(Unusable):
        convert.campaign("shoes", b"\xff\xff")


def test_a_refused_record_leaves_the_one_before_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    chooser, clock = Chooser(), SystemClock()
    reader = Reader(Recorder(spool, load_contract()), clock, "edge-1")
    publisher = Publisher(Catalogue(Share()), Shelf(), chooser, reader, clock)
    key = (Source.CAMPAIGN, "shoes")
    publisher.publish({key: campaign().SerializeToString()})
    publisher.publish({key: campaign(weight=0).SerializeToString()})
    assert (publisher.campaigns, publisher.unusable) == (1, 1)
    assert chooser.index.landing_url("shoes", "one") == "https://shop.example/1"
    publisher.publish({key: None})
    assert publisher.campaigns == 0
    spool.close()


def test_a_snapshot_can_be_written_from_json(tmp_path: Path) -> None:
    lines = [
        {"campaign": {"campaign_id": "shoes", "slots": ["top"], "weight": 1, "creatives": [
            {"creative_id": "one", "title": "One", "image_url": "https://i.example/1", "landing_url": "https://s.example"}
        ]}},
        {"content_item": {"slug": "about", "locale": "en", "title": "About", "default_locale": True}},
    ]  # fmt: skip
    path = tmp_path / "snapshot.bin"

    def run(text: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "public_edge.snapshot", str(path)]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)

    refused = run('{"campaign": {"campaign_id": "x"}}')
    assert (refused.returncode, path.exists()) == (1, False)
    assert "line 1" in refused.stderr
    assert run("\n".join(json.dumps(line) for line in lines)).returncode == 0
    assert set(state.load(path) or ()) == {(Source.CAMPAIGN, "shoes"), (Source.CONTENT_ITEM, "about/en")}


def test_the_watermark_waits_for_the_slowest_acknowledgement() -> None:
    tracker = Tracker()
    for sequence in (1, 2, 3, 5):
        tracker.sent(sequence)
    impression, click = (100, 1, 0), (100, 2, 3)
    tracker.acknowledged(2, click)
    assert tracker.contiguous() is None
    tracker.acknowledged(1, impression)
    assert tracker.contiguous() == (2, {impression: 1, click: 1})
    tracker.acknowledged(5, click, events=2)
    tracker.acknowledged(3, click)
    assert tracker.contiguous() == (5, {click: 3})
    assert len(tracker) == 0
