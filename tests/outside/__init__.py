"""A package of another author, for tests/test_outside.py."""
