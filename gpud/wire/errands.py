"""Commands inside running jobs: a page of the protocol, whose first, `messages`, says how to ask."""

from typing import Literal, NotRequired, TypedDict


class Exec(TypedDict):
    """Run a command in a running job: as its user, in its environment, directory, fence and cgroup. Reply: `ExecReply`.

    `terminal` is rows and columns of the one that it gets, and `term` what $TERM is there; without, it has pipes. It
    starts once somebody attends it, and is hung up when they leave, or the job ends.
    """

    op: Literal["exec"]
    id: int
    job: str
    command: list[str]
    terminal: NotRequired[list[int]]
    term: NotRequired[str]


class ExecReply(TypedDict):
    """The socket at which the command is attended; or why it could not start: `not_found`, that there is none."""

    terminal: str
    fault: str | None
    not_found: bool


ERRANDS: dict[str, type] = {"exec": Exec}
