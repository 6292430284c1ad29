"""The data of a report: its specification, tables and charts."""
