"""Every event in every state of a job's life: what becomes of the job, and what is done in the world."""

from collections.abc import Callable

from playbook import Play, a_cluster, a_job, a_start, an_end, element

from gpud.model.effects import Effect, Interrupt, Launch, Look, Stop
from gpud.model.job import Fault, JobId

PROGRAM = Fault("no such program: trian", machine=False, not_found=True)
FULL = Fault("no space left on device", machine=True)


def waiting() -> tuple[Play, JobId]:
    play = a_cluster(gpus="1xH100")
    play.submit(a_job())
    return play, play.submit(a_job(retries=1))[0]


def parked(**how: object) -> tuple[Play, JobId]:
    play = a_cluster(gpus="1xH100")
    return play, play.submit(a_job(retries=1, **how))[0]


def retrying() -> tuple[Play, JobId]:
    play, job = running()
    play.ends(job, code=1)
    return play, job


def after(**ended: object) -> tuple[Play, JobId]:
    """A job that comes after another, which runs, or has `ended` so."""
    play, first = running()
    job = play.submit(a_job(retries=1, after=first))[0]
    if ended:
        play.cancel(first)
        play.ends(first, **ended)
    return play, job


def pending() -> tuple[Play, JobId]:
    play = a_cluster(gpus="1xH100")
    play.submit(a_job())
    return play, element(play.submit(a_job(retries=1, array="0-9"))[0], 7)


def throttled() -> tuple[Play, JobId]:
    play = a_cluster(gpus="2xH100")
    (array,) = play.submit(a_job(retries=1, array="0-9%1"))
    job = element(array, 7)
    play.hold(job)
    play.release(job)
    return play, job


def starting() -> tuple[Play, JobId]:
    play = a_cluster(gpus="1xH100")
    return play, play.submit(a_job(retries=1))[0]


def running() -> tuple[Play, JobId]:
    play, job = starting()
    play.starts(job)
    return play, job


def second_attempt() -> tuple[Play, JobId]:
    play, job = retrying()
    play.later(3)
    play.starts(job)
    return play, job


def stopped(by: Callable[[Play, JobId], object], state: Callable[[], tuple[Play, JobId]]) -> tuple[Play, JobId]:
    play, job = state()
    by(play, job)
    return play, job


def ended() -> tuple[Play, JobId]:
    play, job = running()
    play.ends(job)
    return play, job


STATES: dict[str, Callable[[], tuple[Play, JobId]]] = {
    "queued": waiting,
    "held": lambda: parked(hold=True),
    "held, to begin": lambda: parked(hold=True, begin=3600),
    "begin": lambda: parked(begin=3600),
    "retry": retrying,
    "after": after,
    "never": lambda: after(signal=15),
    "pending element": pending,
    "throttled element": throttled,
    "starting": starting,
    "running": running,
    "running again": second_attempt,
    "cancelled, starting": lambda: stopped(Play.cancel, starting),
    "cancelled, running": lambda: stopped(Play.cancel, running),
    "requeued, starting": lambda: stopped(Play.requeue, starting),
    "requeued, running": lambda: stopped(Play.requeue, running),
    "ended": ended,
}


def end(**how: object) -> Callable[[Play, JobId], object]:
    return lambda play, job: play.cycle(an_end(job, attempt_of(play, job), play.now, **how))


def attempt_of(play: Play, job: JobId) -> int:
    row = play.ledger.rows.get(job)
    return 1 if row is None else row.place.attempt


EVENTS: dict[str, Callable[[Play, JobId], object]] = {
    "started": lambda play, job: play.cycle(a_start(job, attempt_of(play, job), play.now)),
    "started, earlier": lambda play, job: play.cycle(a_start(job, attempt_of(play, job) - 1, play.now)),
    "exited, earlier": lambda play, job: play.cycle(an_end(job, attempt_of(play, job) - 1, play.now)),
    "exit 0": end(code=0),
    "exit 3": end(code=3),
    "signal 11": end(signal=11),
    "no program": end(fault=PROGRAM),
    "no space": end(fault=FULL),
    "lost": end(lost="the node was rebooted"),
    "timed out": end(signal=15, timed_out=True),
    "cancel": Play.cancel,
    "cancel --force": lambda play, job: play.cancel(job, force=True),
    "hold": Play.hold,
    "release": Play.release,
    "requeue": Play.requeue,
    "requeue, from store": lambda play, job: play.requeue(ended=[job]),
    "priority": lambda play, job: play.prioritise(5, job),
    "interrupt": Play.interrupt,
}


def words(effect: Effect) -> str | None:
    match effect:
        case Launch(_, attempt):
            return f"launch {attempt}"
        case Stop(_, attempt, grace_s):
            return f"stop {attempt}" + ("" if grace_s is None else f" in {grace_s:.0f} s")
        case Interrupt(_, attempt):
            return f"interrupt {attempt}"
        case Look(_, attempt):
            return f"look {attempt}"
        case _:
            return None


def told(play: Play, job: JobId, notes: object) -> str:
    """Return what became of a job: its state and next attempt if they changed, what was done, what was said."""
    after = f"{play.state(job)} #{attempt_of(play, job)}"
    done = [words(effect) for effect in play.out.effects if effect.job == job] if play.out.effects else []
    said = [f'"{note}"' for note in notes] if isinstance(notes, list) else []
    return "; ".join([after, *(word for word in done if word), *said])


def table() -> dict[tuple[str, str], str]:
    rows = {}
    for state, reach in STATES.items():
        for event, happens in EVENTS.items():
            if event == "requeue, from store" and state != "ended":
                continue
            play, job = reach()
            before = f"{play.state(job)} #{attempt_of(play, job)}"
            play.out.effects = []
            rows[state, event] = told(play, job, happens(play, job)).removeprefix(before).removeprefix("; ")
    return rows


def written() -> str:
    """Return the table as text: for each state what happens on which events. Events that do nothing are left out."""
    happens: dict[str, dict[str, list[str]]] = {state: {} for state in STATES}
    for (state, event), what in table().items():
        if what:
            happens[state].setdefault(what, []).append(event)
    lines = []
    for state, cells in happens.items():
        lines.append(state)
        lines += [f"    {', '.join(events)}: {what}" for what, events in cells.items()]
    return "\n".join(lines)


GOLDEN = """
queued
    cancel, cancel --force, interrupt: cancelled #1
    hold: held #1
    release: "is not held"
    requeue: "is queued already"
held
    cancel, cancel --force, interrupt: cancelled #1
    hold: "is held already"
    release: starting #1; launch 1
    requeue: "is queued already"
held, to begin
    cancel, cancel --force, interrupt: cancelled #1
    hold: "is held already"
    release: begin #1
    requeue: "is queued already"
begin
    cancel, cancel --force, interrupt: cancelled #1
    hold: held #1
    release: "is not held"
    requeue: "is queued already"
retry
    cancel, cancel --force, interrupt: cancelled #2
    hold: held #2
    release: "is not held"
    requeue: "is queued already"
after
    cancel, cancel --force, interrupt: cancelled #1
    hold: held #1
    release: "is not held"
    requeue: "is queued already"
never
    cancel, cancel --force, interrupt: cancelled #1
    hold: held #1
    release: starting #1; launch 1
    requeue: "is queued already"
pending element
    cancel, cancel --force, interrupt: cancelled #1
    hold: held #1
    release: "is not held"
    requeue: "is queued already"
throttled element
    cancel, cancel --force, interrupt: cancelled #1
    hold: held #1
    release: "is not held"
    requeue: "is queued already"
starting
    started: running #1
    exit 0: completed #1
    exit 3, signal 11, no space, lost: retry #2
    no program: failed #1
    timed out: timed_out #1
    cancel: stopping(cancelled) #1; stop 1
    cancel --force: stopping(cancelled) #1; stop 1 in 0 s
    hold: "is running; to stop it: gpuctl cancel, to run it again later: gpuctl requeue"
    release: "is not held"
    requeue: stopping(requeued) #1; stop 1
    interrupt: interrupt 1
running
    exit 0: completed #1
    exit 3, signal 11, no space, lost: retry #2
    no program: failed #1
    timed out: timed_out #1
    cancel: stopping(cancelled) #1; stop 1
    cancel --force: stopping(cancelled) #1; stop 1 in 0 s
    hold: "is running; to stop it: gpuctl cancel, to run it again later: gpuctl requeue"
    release: "is not held"
    requeue: stopping(requeued) #1; stop 1
    interrupt: interrupt 1
running again
    exit 0: completed #2
    exit 3, signal 11, no program: failed #2
    no space, lost: retry #3
    timed out: timed_out #2
    cancel: stopping(cancelled) #2; stop 2
    cancel --force: stopping(cancelled) #2; stop 2 in 0 s
    hold: "is running; to stop it: gpuctl cancel, to run it again later: gpuctl requeue"
    release: "is not held"
    requeue: stopping(requeued) #2; stop 2
    interrupt: interrupt 2
cancelled, starting
    started: stop 1 in 30 s
    exit 0, exit 3, signal 11, no program, no space, lost, timed out: cancelled #1
    cancel: "is being cancelled already"
    cancel --force: stop 1 in 0 s
    hold: "is running; to stop it: gpuctl cancel, to run it again later: gpuctl requeue"
    release: "is not held"
    requeue: "is being cancelled"
    interrupt: interrupt 1
cancelled, running
    started: stop 1 in 30 s
    exit 0, exit 3, signal 11, no program, no space, lost, timed out: cancelled #1
    cancel: "is being cancelled already"
    cancel --force: stop 1 in 0 s
    hold: "is running; to stop it: gpuctl cancel, to run it again later: gpuctl requeue"
    release: "is not held"
    requeue: "is being cancelled"
    interrupt: interrupt 1
requeued, starting
    started: stop 1 in 30 s
    exit 0, exit 3, signal 11, no program, no space, lost, timed out: starting #2; launch 2
    cancel: stopping(cancelled) #1; stop 1
    cancel --force: stopping(cancelled) #1; stop 1 in 0 s
    hold: "is running; to stop it: gpuctl cancel, to run it again later: gpuctl requeue"
    release: "is not held"
    requeue: "is being requeued already"
    interrupt: interrupt 1
requeued, running
    started: stop 1 in 30 s
    exit 0, exit 3, signal 11, no program, no space, lost, timed out: starting #2; launch 2
    cancel: stopping(cancelled) #1; stop 1
    cancel --force: stopping(cancelled) #1; stop 1 in 0 s
    hold: "is running; to stop it: gpuctl cancel, to run it again later: gpuctl requeue"
    release: "is not held"
    requeue: "is being requeued already"
    interrupt: interrupt 1
ended
    cancel, cancel --force, hold, release, requeue, priority, interrupt: "has ended already"
    requeue, from store: starting #2; launch 2
"""


def test_every_event_in_every_state_does_what_the_table_says():
    assert written() == GOLDEN.strip()
