"""The configuration: its schema, its options, and how it is composed."""
