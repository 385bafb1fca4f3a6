"""Questions to a driver that may never answer, each asked in a thread of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Answer = TypeVar("Answer")


def asked(question: Callable[[], Answer]) -> Future[Answer]:
    """Ask the driver something, in a thread of its own."""
    future: Future[Answer] = Future()

    def ask() -> None:
        try:
            answer = question()
        except Exception as error:  # noqa: BLE001 - raised again where the answer is wanted
            future.set_exception(error)
        else:
            future.set_result(answer)

    try:
        threading.Thread(target=ask, name="gpud-ask", daemon=True).start()
    except RuntimeError as error:  # no process is left for it
        future.set_exception(error)
    return future
