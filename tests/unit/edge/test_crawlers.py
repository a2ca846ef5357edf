"""The list of bots, read into classes."""

import pytest
from crawleruseragents import CRAWLER_USER_AGENTS_DATA

from public_edge.crawlers import Bot, bot_of


def test_every_tag_of_the_list_is_of_one_class() -> None:
    tags = [tag for bot in Bot for tag in bot.value]
    assert len(tags) == len(set(tags))
    assert {tag for entry in CRAWLER_USER_AGENTS_DATA for tag in entry["tags"]} == set(tags)


def test_every_agent_that_the_list_knows_is_a_bot() -> None:
    agents = [agent for entry in CRAWLER_USER_AGENTS_DATA for agent in entry["instances"]][::20]
    assert len(agents) > 50
    assert all(bot_of(agent) for agent in agents)


@pytest.mark.parametrize(
    "agent",
    [
        None,
        "",
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 "
        "Mobile/15E148 Safari/604.1",
        "Mozilla/5.0 (Linux; Android 14; 23078RKD5C) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 "
        "Chrome/130.0.0.0 Mobile Safari/537.36 XWEB/1300 MMWEBSDK/20241103 MicroMessenger/8.0.54 Language/zh_CN",
    ],
)
def test_people_are_no_bots(agent: str | None) -> None:
    assert bot_of(agent) is None
