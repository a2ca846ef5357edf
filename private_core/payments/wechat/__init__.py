"""WeChat Pay, API v3, behind the provider port."""
