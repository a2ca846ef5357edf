"""Checking access tokens wherever a private service is called: signature, claims, scopes."""
