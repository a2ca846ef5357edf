"""Orders of the shop: placed, read, cancelled."""
