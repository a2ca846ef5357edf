"""A payment provider for sandboxes, as a process of its own: it stands where a real one would."""
