"""The authorization server: who may have which access token (RFC 6749, RFC 9700)."""
