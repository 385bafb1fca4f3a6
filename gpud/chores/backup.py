"""A copy of the queue and its history, made while gpud runs; whoever asked for it takes it away.

SQLite's own online backup, in a thread of its own: one read of the database as it is now, so commits go on. gpud
opens no path that somebody else chose: the copy is made in the state directory, and gpuctl moves it.
"""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

from gpud.server.connections import Peer
from gpud.store.files import back_up
from gpud.wire.check import Wrong
from gpud.wire.codec import Message

_ABANDONED_S = 3600.0  # a copy that nobody took within an hour


class Backups:
    """Makes copies of the database in a state directory."""

    def __init__(self, state_dir: str) -> None:
        self._database = f"{state_dir}/gpud.db"
        self._folder = Path(state_dir, "backups")
        self._last = 0

    async def make(self, peer: Peer, _: Message) -> Message:
        """Return where a new copy is. Raises Wrong for one who could not read it, and StoreError."""
        if peer.uid not in {0, os.geteuid()}:
            raise Wrong("the copy is for root alone", "sudo gpuctl daemon backup FILE", "not_permitted")
        self._last += 1
        target = f"{self._folder}/{peer.pid}-{self._last}.backup"
        return {"path": target, "bytes": await asyncio.to_thread(self._make, target)}

    def _make(self, target: str) -> int:
        """Copy the database, and remove what nobody took; return how large the copy is."""
        with suppress(FileNotFoundError):
            for left in self._folder.glob("*-*.backup*"):
                if left.stat().st_mtime < time.time() - _ABANDONED_S:
                    left.unlink()
        back_up(self._database, target)
        return Path(target).stat().st_size
