"""The edge node's append-only log of events: written before the answer, shipped to Kafka afterwards."""
