"""The public zone: ads, clicks and content on every edge node."""
