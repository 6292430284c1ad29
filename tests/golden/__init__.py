"""Methods against numbers of the official implementations: python -m tests.golden DIR."""
