"""Units of memory."""

MIB = 2**20  # bytes
GIB = 2**30  # bytes
MIB_OF_GIB = GIB // MIB
