"""Payments of orders through a provider, and the double-entry books they leave."""
