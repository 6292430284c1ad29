"""Python's garbage collector, which would take a third of the time of the tests."""

import gc


def pytest_collection_finish() -> None:
    # Each full collection walks the million objects of torch and the tests.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
