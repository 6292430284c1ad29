"""Tables, charts and a page from records: `python -m petlbench.report`."""
