"""The tasks of the embedded suite, an idea a file: image(draw, index) -> (pixels, label)."""
