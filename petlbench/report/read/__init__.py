"""From folders of records to scores: reading, checks, selection, means."""
