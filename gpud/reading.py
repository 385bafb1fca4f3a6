"""The thread in which the store is read: a question that takes long holds up neither the loop nor a commit."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gpud.store.reader import Reader

Answer = TypeVar("Answer")


class ReadThread:
    """One thread, one read-only connection. Make it after the store was opened."""

    def __init__(self, path: str) -> None:
        self._thread = ThreadPoolExecutor(1, "gpud-read")
        self._reader = self._thread.submit(Reader, path).result()

    async def run(self, question: Callable[[Reader], Answer]) -> Answer:
        """Return what `question` makes of the reader. Raises what it raises, StoreError among it."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, question, self._reader)

    def close(self) -> None:
        """Close the connection, in its thread."""
        self._thread.submit(self._reader.close).result()
        self._thread.shutdown()
