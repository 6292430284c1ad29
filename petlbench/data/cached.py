"""Where the decoded pixels of a list of images lie. Imports no torch."""

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CachedPixels:
    """The file of a list's pixels and the file of their fingerprint; shape: (N, 3, size, size)."""

    pixels: Path
    about: Path
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The size of the pixels in bytes."""
        return math.prod(self.shape)

    @property
    def exists(self) -> bool:
        """Whether both files exist and the pixels are complete; their content is not read."""
        # a process may be killed between the two files; each is renamed when it is whole
        return self.version[:1] == (self.size,) and self.about.is_file()

    @property
    def version(self) -> tuple[int, ...]:
        """Size, dates and inode of the pixels; empty if there are none."""
        try:
            status = self.pixels.stat()
        except OSError:
            return ()
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
