"""Ads: chooses a creative for a slot and hands out its signed click URL."""
