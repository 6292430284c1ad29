"""One kind of report a file: `build(records, spec, **options) -> Report`, and `DEFAULTS`."""
