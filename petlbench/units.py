"""Units of memory, and numbers with their nouns."""

MIB = 2**20  # bytes
GIB = 2**30  # bytes
MIB_OF_GIB = GIB // MIB


def counted(number: int, noun: str) -> str:
    """1 run, 2 runs"""
    return f"{number} {noun}{'s' * (number != 1)}"
