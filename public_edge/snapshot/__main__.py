"""Write a snapshot from JSON lines, for a node that has to start where Kafka cannot be reached.

    python -m public_edge.snapshot FILE < records.jsonl

Each line is {"campaign": {...}} or {"content_item": {...}} in the JSON form of isthmus.catalog.v1.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from google.protobuf import json_format
from isthmus.catalog.v1 import catalog_pb2

from public_edge.snapshot import convert, state
from public_edge.snapshot.convert import Unusable
from public_edge.snapshot.state import Key, Source

LINES_MAX = 10_000_000


def read(lines: Iterable[str]) -> dict[Key, bytes]:
    """Raises ValueError naming the line that cannot be used."""
    records: dict[Key, bytes] = {}
    for number, line in enumerate(lines, 1):
        if number > LINES_MAX:
            raise ValueError(f"more than {LINES_MAX} lines")
        try:
            entry = json.loads(line)
            if "campaign" in entry:
                campaign = json_format.ParseDict(entry["campaign"], catalog_pb2.Campaign())
                key, value = (Source.CAMPAIGN, campaign.campaign_id), campaign.SerializeToString()
                convert.campaign(key[1], value)
            else:
                item = json_format.ParseDict(entry["content_item"], catalog_pb2.ContentItem())
                key, value = (Source.CONTENT_ITEM, f"{item.slug}/{item.locale}"), item.SerializeToString()
                convert.content_item(key[1], value)
        except (ValueError, KeyError, TypeError, json_format.ParseError, Unusable) as error:
            raise ValueError(f"line {number}: {error}") from error
        records[key] = value
    return records


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        records = read(sys.stdin)
    except ValueError as error:
        print(f"snapshot not written: {error}", file=sys.stderr)
        return 1
    state.save(Path(arguments[0]), records)
    print(f"{len(records)} records written to {arguments[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
