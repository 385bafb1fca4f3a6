"""User names by uid. The name service may be slow or dead: it is asked off the loop, and once for each user."""

import asyncio
import pwd


class Names:
    """Names that were asked for."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def known(self, uid: int) -> str | None:
        """Return a name at once, None where it was never asked for."""
        return self._known.get(uid)

    async def name(self, uid: int) -> str:
        """Return a name, however long the name service takes; the number where it knows none."""
        if uid not in self._known:
            self._known[uid] = await asyncio.to_thread(_look_up, uid)
        return self._known[uid]


def _look_up(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
