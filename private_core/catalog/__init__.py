"""Catalog: the campaigns and content items that marketing publishes, and their way out to the edge."""
