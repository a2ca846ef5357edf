"""Clicks: verifies the signed token, records the click, leads to the landing page."""
