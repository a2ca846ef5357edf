"""PostgreSQL for the rooms of the private zone: bounded engines, transactions that are retried, migrations."""
