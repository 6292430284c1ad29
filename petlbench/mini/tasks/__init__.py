"""The eight tasks of the embedded suite, one idea a file: image(draw, index) -> (pixels, label)."""
