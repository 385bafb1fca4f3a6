"""What the person at the screen has chosen, and what each key does to it. Nothing here asks or draws anything.

A key changes the board, or returns an `Ask`: a change of jobs, which is confirmed first. What is asked for names jobs
by id from the moment of the question on: rows that move meanwhile change nothing of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gpuctl.dashboard.keys import PASTE
from gpuctl.dashboard.source import Map, Query, Seen
from gpuctl.render.jobs import ACTIVE, ENDS

TABS = ("all", "running", "queued", "finished")
VIEWS = ("auto", "hidden", "only")  # of the GPUs
_SEARCHED_MOST = 2_000
_PAGE = 100  # rows are asked for in so many steps
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Ask:
    """What gpud is asked to do to jobs, and how that is told when it is done."""

    op: str
    jobs: tuple[str, ...]
    done: str
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Prompt:
    """A question at the foot of the screen: answered by one key of `keys`, or where that is None by a text.

    A text that is `offered` is taken as it is, or goes with the first letter typed.
    """

    question: str
    then: Callable[[str], Ask | None]
    keys: str | None = None
    text: str = ""
    live: bool = False  # told of every letter, as a search is
    offered: bool = False


@dataclass(slots=True)
class Board:
    """The choices. `cursor` and `marked` are ids; `at` is where the cursor's row is, `top` the first row shown.

    `phase` says whether the cursor's job waits, runs or has ended. `up` is how many lines of the log are below what is
    shown: 0 follows it. `last`: the last row is to be chosen, once it has been asked for. `me` is the person's uid.
    """

    seen: Seen
    me: int
    tab: str = "all"
    mine: bool = False
    user: str | None = None
    search: str = ""
    gpus: str = "auto"
    cursor: str | None = None
    phase: str = ""
    at: int = 0
    top: int = 0
    last: bool = False
    room: int = 1
    marked: set[str] = field(default_factory=set)
    job: str | None = None
    up: int = 0
    wraps: bool = False
    help: bool = False
    prompt: Prompt | None = None
    message: str = ""
    over: bool = False
    afresh: bool = False

    def query(self) -> Query:
        """Return what is to be asked for."""
        most = _SEARCHED_MOST if self.search or self.last else (self.top + 2 * self.room) // _PAGE * _PAGE + _PAGE
        waiting, ended = self.tab in ("all", "queued"), self.tab in ("all", "finished")
        return Query(waiting, ended, self.mine, self.user, min(_SEARCHED_MOST, most), self.job)

    def rows(self) -> list[Map]:
        """Return the jobs of the tab that the filters leave."""
        seen = self.seen
        active = seen.active if self.tab in ("all", "running") else []
        if self.mine:
            active = [job for job in active if job["uid"] == self.me]
        if self.user:
            active = [job for job in active if job["user"] == self.user]
        waiting = seen.waiting if self.tab in ("all", "queued") else []
        ended = seen.ended if self.tab in ("all", "finished") else []
        rows = [*active, *waiting, *ended]
        if not self.search:
            return rows
        words = self.search.lower().split()
        return [job for job in rows if all(word in _searched(job) for word in words)]

    def settle(self, rows: list[Map], room: int) -> None:
        """Keep the cursor in sight, and on its job as long as that is in the same phase; in the first row it stays."""
        self.room = max(1, room)
        found = next((at for at, job in enumerate(rows) if job["id"] == self.cursor), None)
        if found is not None and _phase(rows[found]) == self.phase:
            self.at = found if self.at else 0  # who never moved sees the new ones come, not the old ones go down
        else:  # gone, or among those that run or have ended now: what one looks at does not move away
            self.at = max(0, min(self.at, len(rows) - 1))
        if self.last:
            self.at = max(0, len(rows) - 1)
            self.last = bool(self.seen.more) and not self.search and len(rows) < _SEARCHED_MOST
        self._stand(rows)
        self.top = max(0, min(self.top, self.at, len(rows) - self.room), self.at - self.room + 1)

    def chosen(self) -> list[Map]:
        """Return the jobs that an action is meant for: the one looked at, those marked, or the one under the cursor."""
        if self.job is not None:
            return [self.seen.answer["job"]] if self.seen.answer else []
        rows = self.rows()
        marked = [job for job in rows if job["id"] in self.marked]
        return marked or [job for job in rows if job["id"] == self.cursor]

    def press(self, key: str) -> Ask | None:
        """Do what a key says; return what is to be asked for."""
        if self.prompt is not None:
            return self._answer(self.prompt, key)
        if key.startswith(PASTE):
            return None
        self.message = ""
        self.settle(self.rows(), self.room)  # what was typed before this key may not have been drawn yet
        if self.help:
            self.help = False
            return None
        if key in ("q", "ctrl-c"):
            self.over = True
        elif key == "?":
            self.help = True
        elif key == "ctrl-l":
            self.afresh = True
        elif key in _ACTIONS and not self.chosen():
            self.message = "there is no job here"
        elif key in _ACTIONS:
            _ACTIONS[key](self)
        elif self.job is not None:
            self._in_job(key)
        else:
            self._in_jobs(key)
        return None

    def _in_jobs(self, key: str) -> None:
        moves = {"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -self.room, "pgdn": self.room, "ctrl-b": -self.room}
        moves |= {"ctrl-f": self.room, "home": -self.at, "end": 1 << 30, "G": 1 << 30}
        self.last = key in ("end", "G")
        if key in moves:
            self._move(moves[key])
        elif key.isdigit() and 0 < int(key) <= len(TABS):
            self._turn_to(TABS[int(key) - 1])
        elif key in ("tab", "right", "backtab", "left"):
            step = 1 if key in ("tab", "right") else -1
            self._turn_to(TABS[(TABS.index(self.tab) + step) % len(TABS)])
        elif key == "enter" and self.cursor is not None:
            self.job, self.up, self.seen.answer, self.seen.problem = self.cursor, 0, None, None
        elif key == " " and self.cursor is not None:
            self.marked ^= {self.cursor}
            self._move(1)
        elif key == "g":
            self.gpus = VIEWS[(VIEWS.index(self.gpus) + 1) % len(VIEWS)]
        elif key == "m":
            self.mine, self.user, self.at, self.cursor = not self.mine, None, 0, None
        elif key == "u":
            self.prompt = Prompt(
                "only jobs of user (empty: everybody)", self._of_user, text=self._user_here(), offered=True
            )
        elif key == "/":
            self.prompt = Prompt("search", self._find, text=self.search, live=True)
        elif key == "esc":
            self._widen()

    def _in_job(self, key: str) -> None:
        moves = {"up": 1, "k": 1, "down": -1, "j": -1, "pgup": self.room, "pgdn": -self.room, "home": 1 << 30}
        if key in moves:
            self.up = max(0, min(self.up + moves[key], len(self.seen.log.lines) - 1))
        elif key in ("end", "G", "f"):
            self.up = 0
        elif key == "w":
            self.wraps = not self.wraps
        elif key in ("esc", "enter", "left", "backspace"):
            self.job = None

    def _move(self, by: int) -> None:
        rows = self.rows()
        self.at = max(0, min(self.at + by, len(rows) - 1))
        self._stand(rows)

    def _stand(self, rows: list[Map]) -> None:
        here = rows[self.at] if rows else None
        self.cursor, self.phase = (None, "") if here is None else (here["id"], _phase(here))

    def _turn_to(self, tab: str) -> None:
        self.tab, self.at, self.top, self.cursor = tab, 0, 0, None
        self.marked.clear()

    def _user_here(self) -> str:
        here = next((job["user"] for job in self.rows() if job["id"] == self.cursor), "")
        return self.user or here

    def _of_user(self, text: str) -> None:
        self.user, self.mine, self.cursor, self.at = text.strip() or None, False, None, 0

    def _find(self, text: str) -> None:
        self.search = text

    def _widen(self) -> None:
        """Take back one thing that narrows: marks, then the search, then whose."""
        if self.marked:
            self.marked.clear()
        elif self.search:
            self.search = ""
        else:
            self.user, self.mine = None, False

    def _answer(self, prompt: Prompt, key: str) -> Ask | None:
        if prompt.keys is not None:
            self.prompt = None
            answer = key.lower() if key in prompt.keys or key.lower() == "y" else ""
            if not answer:
                self.message = "nothing was done"
            return prompt.then(answer) if answer else None
        if key == "enter":
            self.prompt = None
            return prompt.then(prompt.text)
        if key in ("esc", "ctrl-c"):
            self.prompt = None
            if prompt.live:
                prompt.then("")
            return None
        prompt.text, prompt.offered = "" if prompt.offered else prompt.text, False
        if key.startswith(PASTE):
            prompt.text += " ".join(key.removeprefix(PASTE).split())
        elif key == "backspace":
            prompt.text = prompt.text[:-1]
        elif key == "ctrl-u":
            prompt.text = ""
        elif len(key) == 1 and key.isprintable():
            prompt.text += key
        if prompt.live:
            prompt.then(prompt.text)
        return None

    def _confirm(self, op: str, done: str, jobs: list[Map], question: str, keys: str = "y") -> None:
        ids = tuple(job["id"] for job in jobs)
        self.prompt = Prompt(question, lambda key: Ask(op, ids, done, {"force": True} if key == "f" else {}), keys)

    def _cancel(self) -> None:
        jobs = [job for job in self.chosen() if job["state"] not in ENDS]
        if not jobs:
            self.message = "there is nothing to cancel: it has ended"
            return
        runs = any(job["state"] in ACTIVE or "array" in job for job in jobs)
        kill = "  y: yes   f: kill at once   any other key: no" if runs else "  y: yes   any other key: no"
        self._confirm("cancel", "cancelled", jobs, f"cancel {_named(jobs)}?{kill}", "yf" if runs else "y")

    def _hold(self) -> None:
        jobs = self.chosen()
        held = [job for job in jobs if job["state"] == "held"]
        waiting = [job for job in jobs if job["state"] == "queued"]
        if held:
            self._confirm("release", "released", held, f"release {_named(held)}?  y: yes   any other key: no")
        elif waiting:
            self._confirm("hold", "held", waiting, f"hold {_named(waiting)}?  y: yes   any other key: no")
        else:
            self.message = "only what waits is held, or released"

    def _requeue(self) -> None:
        jobs = [job for job in self.chosen() if job["state"] in ENDS]
        if jobs:
            self._confirm("requeue", "requeued", jobs, f"run {_named(jobs)} again?  y: yes   any other key: no")
        else:
            self.message = "only what has ended runs again"

    def _prioritize(self) -> None:
        jobs = [job for job in self.chosen() if job["state"] not in ENDS]
        if not jobs:
            self.message = "what has ended has no priority to change"
            return
        ids, named = tuple(job["id"] for job in jobs), _named(jobs)

        def confirmed(text: str) -> None:
            try:
                number = int(text)
            except ValueError:
                self.message = f"{text!r} is no priority: a number, higher goes first" if text.strip() else ""
                return
            ask = Ask("priority", ids, f"set priority {number} of", {"priority": number})
            question = f"priority {number} for {named}?  y: yes   any other key: no"
            self.prompt = Prompt(question, lambda _: ask, "y")

        self.prompt = Prompt(f"priority of {named}, higher goes first (now {jobs[0]['priority']})", confirmed)


_ACTIONS: dict[str, Callable[[Board], None]] = {
    "c": Board._cancel,  # noqa: SLF001 - this table is the class's own
    "h": Board._hold,  # noqa: SLF001 - as above
    "p": Board._prioritize,  # noqa: SLF001 - as above
    "r": Board._requeue,  # noqa: SLF001 - as above
}


def _named(jobs: list[Map]) -> str:
    """Return jobs as a question names them: one with whose it is, of several the first ids."""
    if len(jobs) == 1:
        kind = "array" if "array" in jobs[0] else "job"
        return f"{kind} {jobs[0]['id']} ({jobs[0]['name']}, {jobs[0]['user']}, {jobs[0]['state']})"
    ids = " ".join(job["id"] for job in jobs[:_NAMED]) + (" ..." if len(jobs) > _NAMED else "")
    return f"{len(jobs)} jobs ({ids})"


def _phase(job: Map) -> str:
    return "ended" if job["state"] in ENDS else "active" if job["state"] in ACTIVE else "waiting"


def _searched(job: Map) -> str:
    words = [job["id"], job["name"], job["user"], job["state"], job.get("group") or ""]
    return " ".join([*words, *(job["command"] or ())]).lower()
