from collections import Counter

from chaos.load.catalog import MARKER, catalog
from chaos.load.impressions import ImpressionRow


def row(item: int, slot: str, user: str = "u1", collection: str = "men") -> ImpressionRow:
    return ImpressionRow(1, collection, item, slot, False, {"user_feature_0": user})


def test_each_distinct_item_is_one_campaign_in_the_slots_that_it_was_seen_in() -> None:
    made = catalog([row(1, "position-2"), row(1, "position-1"), row(2, "position-2")], "abc")
    slots = {campaign.campaign_id: list(campaign.slots) for campaign in made.campaigns}
    assert slots == {"men-1": ["position-1", "position-2"], "men-2": ["position-2"], MARKER: [MARKER]}


def test_the_same_item_number_in_two_files_is_two_campaigns() -> None:
    made = catalog([row(1, "position-1"), row(1, "position-1", collection="women")], "abc")
    assert {"men-1", "women-1"} < {campaign.campaign_id for campaign in made.campaigns}


def test_every_slot_keeps_a_campaign_for_everybody() -> None:
    rows = [row(item, f"position-{1 + item % 3}") for item in range(40)] + [row(99, "position-4")]
    made = catalog(rows, "abc")
    assert any(campaign.targeting for campaign in made.campaigns)
    for_everybody = Counter(slot for campaign in made.campaigns if not campaign.targeting for slot in campaign.slots)
    assert {row.slot for row in rows} <= for_everybody.keys()


def test_a_targeted_campaign_is_for_the_users_who_saw_its_item_most() -> None:
    rows = [row(1, "position-1", "few"), row(1, "position-1", "many"), row(1, "position-1", "many")]
    made = catalog([*rows, row(2, "position-1")], "abc")
    assert made.campaigns[0].targeting == {"user_feature_0": "many"}


def test_every_campaign_leads_to_a_landing_page_of_its_own_over_https() -> None:
    landings = catalog([row(1, "position-1"), row(2, "position-1")], "abc").landings
    assert len(set(landings.values())) == len(landings) == 3
    assert all(url.startswith("https://") for url in landings.values())


def test_the_marker_comes_last_and_shows_the_edition() -> None:
    made = catalog([row(1, "position-1")], "abc")
    assert made.campaigns[-1].campaign_id == MARKER
    assert "abc" in made.campaigns[-1].creatives[0].title
    assert "abc" in made.items[-1].body
