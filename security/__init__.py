"""Identity, tokens, keys and audit: what proves who calls and what they may do."""
