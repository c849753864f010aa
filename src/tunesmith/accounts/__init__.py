"""Accounts: users, signing in, bearer tokens and API keys. "local" owns what the machine's owner makes without one."""
