"""Content: versioned items by slug and locale."""
