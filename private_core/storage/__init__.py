"""What the rooms of the private core share on PostgreSQL: idempotency records and the outbox."""
