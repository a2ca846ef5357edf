"""What the edge saw, as rows, and the reports on them."""
