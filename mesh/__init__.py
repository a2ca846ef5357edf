"""The runtime that every service stands on."""
