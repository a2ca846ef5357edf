"""The arithmetic of the reports."""

from private_core.warehouse.domain import Traffic


def test_the_rate_is_net_clicks_over_impressions() -> None:
    assert Traffic("s", 200, gross_clicks=9, clicks=6, net_clicks=5, crawler_clicks=2).click_through_rate == 0.025


def test_without_impressions_there_is_no_rate() -> None:
    assert Traffic("s", 0, gross_clicks=1, clicks=1, net_clicks=1, crawler_clicks=0).click_through_rate is None


def test_replays_are_the_clicks_after_the_first() -> None:
    assert Traffic("s", 0, gross_clicks=9, clicks=6, net_clicks=5, crawler_clicks=2).replayed_clicks == 3
