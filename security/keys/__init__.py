"""Keys: the port to a key management system, the local keyring, and the envelope that every encrypted value lies in."""
