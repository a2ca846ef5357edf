"""Inward: events of the edge, from Kafka into the warehouse, each exactly once."""
