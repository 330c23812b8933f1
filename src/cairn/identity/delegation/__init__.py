"""Acting for somebody else: application credentials, trusts, OAuth 1.0a."""
