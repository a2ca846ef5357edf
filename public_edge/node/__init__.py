"""One edge node: ads, clicks and content in one process."""
