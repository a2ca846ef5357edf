"""Outward: from the outbox to the compacted topics of the edge, and nothing that may not leave."""
