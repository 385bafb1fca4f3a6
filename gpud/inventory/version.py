"""Which version of the driver's library is installed now: not always the one that a process has loaded."""

import os
import re
from pathlib import Path

_NAME = "libnvidia-ml.so.1"
_VERSIONED = re.compile(r"/libnvidia-ml\.so\.(\d+\.[\d.]+)$")


def installed_version(library: str | None, maps: str = "/proc/self/maps") -> str | None:
    """Return the version in the name of the file that the library's name leads to; None where that tells none.

    `library` is the path that was loaded, None for the system's: where that is, is read off what this process has
    mapped. Packages name the file by its version and lead `libnvidia-ml.so.1` to it.
    """
    place = library or _mapped(maps)
    if place is None:
        return None
    found = _VERSIONED.search(os.path.realpath(place if library else Path(place).with_name(_NAME)))
    return found[1] if found else None


def _mapped(maps: str) -> str | None:
    try:
        lines = Path(maps).read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next(
        (line.split(maxsplit=5)[5].removesuffix(" (deleted)") for line in lines if "/libnvidia-ml.so" in line), None
    )
