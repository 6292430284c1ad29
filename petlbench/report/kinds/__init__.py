"""The kinds of reports, one a file: `build(records, view, **options) -> Report`, and `VIEW`.

The view of an experiment says which kind it is; see `petlbench.report.view`.
"""
