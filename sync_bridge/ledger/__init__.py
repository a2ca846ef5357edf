"""What the bridge remembers in PostgreSQL: how far each partition is read, and what could not cross."""
