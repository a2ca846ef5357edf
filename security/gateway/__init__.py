"""The decision point of the core gateway: every sensitive call is decided here, and gets an inner token for its way."""
