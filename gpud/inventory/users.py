"""The names of users, from a name service that may hang (LDAP behind a dead network): the number until it answers."""

import pwd
import threading
from collections.abc import Callable
from queue import SimpleQueue


def user_name(uid: int) -> str:
    """Return the user's name, the number for one that the machine does not know."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class UserNames:
    """Names once looked up; a thread of its own does the looking. Safe to ask from any thread."""

    def __init__(self, look_up: Callable[[int], str] = user_name, patience_s: float = 0.5) -> None:
        """Begin with none; `patience_s` is how long a first question waits for its answer."""
        self._look_up = look_up
        self._patience_s = patience_s
        self._names: dict[int, str] = {}
        self._wanted: SimpleQueue[tuple[int, threading.Event] | None] = SimpleQueue()
        threading.Thread(target=self._answer, name="gpud-names", daemon=True).start()

    def of(self, uid: int) -> str:
        """Return the user's name, or the number while the name service has not answered."""
        if uid not in self._names:
            answered = threading.Event()
            self._wanted.put((uid, answered))
            answered.wait(self._patience_s)
        return self._names.setdefault(uid, str(uid))

    def close(self) -> None:
        """Let the thread end."""
        self._wanted.put(None)

    def _answer(self) -> None:
        for uid, answered in iter(self._wanted.get, None):
            self._names[uid] = self._look_up(uid)
            answered.set()
