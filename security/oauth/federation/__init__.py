"""Signing in by outside identity providers: OpenID Connect, and WeChat's own form of OAuth."""
