"""Methods against numbers that the official implementations produced: python -m tests.golden DIR."""
