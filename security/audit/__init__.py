"""Audit: a record of every call to a private service, durable before the answer where the contract says so."""
