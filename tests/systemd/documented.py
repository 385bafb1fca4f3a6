"""The commands of systemd/README.md, word by word."""

import re
from pathlib import Path

README = Path(__file__).parent.parent.parent / "systemd" / "README.md"


def commands(heading):
    """Return the blocks of commands under a heading, up to the next."""
    _, _, rest = README.read_text().partition(f" {heading}\n")
    section = re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert blocks, f"no commands under {heading!r}"
    return blocks
