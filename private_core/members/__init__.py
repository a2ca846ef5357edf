"""Members: who is registered, and their personal data, encrypted before it reaches SQL."""
