"""The table of jobs: columns whose widths follow the terminal's, and the rows in steps, so that little jumps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from gpuctl.dashboard.board import TABS, Board
from gpuctl.dashboard.gauges import Glyphs, bar
from gpuctl.dashboard.gpus import Canvas
from gpuctl.dashboard.paint import Line, cell, padded, restyled, spread, style_of
from gpuctl.dashboard.source import Map
from gpuctl.following.progress import limit_left_s, within_epoch
from gpuctl.render.jobs import ACTIVE, ENDS, ending, gpus_wanted, where, written_id
from gpuctl.render.text import cell_len, clean
from gpud.model.units import format_duration


@dataclass(frozen=True, slots=True)
class _Columns:
    """How many cells each column gets; 0 leaves it out. What is left is for where, or why."""

    gap: str
    id: int
    state: int
    name: int
    user: int
    gpus: int
    priority: int
    time: int
    when: int
    progress: int
    command: int


def tabs(board: Board, rows: Sequence[Map], width: int) -> Line:
    """Return the line of tabs, with how many jobs each has; and what narrows it at its end."""
    counts = board.seen.status.get("jobs", {})
    of = {
        "running": sum(counts.get(state, 0) for state in ACTIVE),
        "queued": counts.get("queued", 0) + counts.get("held", 0),
        "finished": sum(counts.get(state, 0) for state in ENDS),
    }
    of["all"] = sum(of.values())
    left: Line = []
    for number, tab in enumerate(TABS, 1):
        style = "reverse bold" if tab == board.tab else ""
        left += [(f" {number} {tab} {of[tab]} ", style)]
    marked = sum(job["id"] in board.marked for job in rows)  # what is out of sight nothing is done to
    words = [f"{marked} marked"] if marked else []
    words += ["mine"] if board.mine else []
    words += [f"user {board.user}"] if board.user else []
    among = f" in the first {_loaded(board)}" if board.seen.more else ""
    words += [f"/{board.search} ({len(rows)}{among})"] if board.search else []
    return spread(left, [(" ".join(words) + " ", "bold")] if words else [], width)


def _loaded(board: Board) -> int:
    return len(board.seen.active) + len(board.seen.waiting) + len(board.seen.ended)


def table(board: Board, rows: Sequence[Map], canvas: Canvas, room: int) -> list[Line]:
    """Return the heading and the rows that are in sight, at most `room` lines, with the cursor's among them."""
    if room <= 0:
        return []
    if not rows:
        return [[(_nothing(board), "dim")]]
    columns = _columns(rows, canvas.width)
    lines: list[Line] = [_heading(columns)]
    for job in rows[board.top : board.top + room - 1]:
        line = _row(job, canvas, columns, marked=job["id"] in board.marked)
        if job["id"] == board.cursor:
            line = restyled(padded(line, canvas.width), "reverse")
        lines.append(line)
    return lines


def unshown(board: Board, rows: Sequence[Map], room: int) -> int:
    """Return how many jobs are below the last row."""
    return max(0, len(rows) - board.top - (room - 1)) + (0 if board.search else board.seen.more)


def _nothing(board: Board) -> str:
    if board.search or board.mine or board.user:
        return "no such jobs (Esc shows all again)"
    return "no jobs; queue one: gpuctl submit -- python train.py" if board.tab == "all" else "none"


def _columns(rows: Sequence[Map], width: int) -> _Columns:
    """Return the widths: by what is in the rows at all, and by the terminal."""
    wide = width >= 100
    several = len({job["user"] for job in rows}) > 1
    ids = max(5, *(len(written_id(job)) for job in rows))
    return _Columns(
        gap="  " if wide else " ",
        id=min(ids, 8 if width < 100 else 14),
        state=9 if width >= 40 else 4,
        name=_snug((job["name"] for job in rows), 8, _between(width // 6, 8, 40)) if width >= 40 else 0,
        user=_snug((job["user"] for job in rows), 4, _between(width // 12, 7, 16)) if several and width >= 70 else 0,
        gpus=4 if width >= 60 else 0,
        priority=4 if wide and any(job["priority"] for job in rows) else 0,
        time=7 if width >= 50 else 0,
        when=8 if width >= 72 else 0,
        progress=_between(width // 8, 12, 28) if wide and any(job.get("progress") for job in rows) else 0,
        command=_between(width // 4, 30, 100) if width >= 160 else 0,
    )


def _between(value: int, least: int, most: int) -> int:
    return max(least, min(value, most))


def _snug(texts: Iterable[str], least: int, most: int) -> int:
    """Return a width in which these texts have room, in steps of four."""
    return _between(-(-max(map(cell_len, map(clean, texts))) // 4) * 4, least, most)


def _heading(columns: _Columns) -> Line:
    words = [
        " ",
        cell("ID", columns.id),
        cell("STATE", columns.state),
        *([cell("NAME", columns.name)] if columns.name else []),
        *([cell("USER", columns.user)] if columns.user else []),
        *([cell("GPUS", columns.gpus, right=True)] if columns.gpus else []),
        *([cell("PRIO", columns.priority, right=True)] if columns.priority else []),
        *([cell("TIME", columns.time, right=True)] if columns.time else []),
        *([cell("WHEN", columns.when, right=True)] if columns.when else []),
        *([cell("PROGRESS", columns.progress)] if columns.progress else []),
        *([cell("COMMAND", columns.command)] if columns.command else []),
        "WHERE OR WHY",
    ]
    return [(words[0] + columns.gap.join(words[1:]), "bold")]


def _row(job: Map, canvas: Canvas, columns: _Columns, *, marked: bool) -> Line:
    now, style, gap = canvas.now, style_of(job["state"]), columns.gap
    line: Line = [("*" if marked else " ", "bold"), (cell(written_id(job), columns.id) + gap, "bold")]
    line += [(cell(job["state"], columns.state) + gap, style)]
    line += [(cell(job["name"], columns.name) + gap, "")] if columns.name else []
    line += [(cell(job["user"], columns.user) + gap, "")] if columns.user else []
    line += [(cell(gpus_wanted(job), columns.gpus, right=True) + gap, "")] if columns.gpus else []
    line += [(cell(str(job["priority"] or ""), columns.priority, right=True) + gap, "")] if columns.priority else []
    line += [(cell(_time(job, now), columns.time, right=True) + gap, "")] if columns.time else []
    line += [(cell(_when(job, now, canvas.glyphs), columns.when, right=True) + gap, "")] if columns.when else []
    if columns.progress:
        line += [(cell(progress(job, columns.progress, canvas.glyphs), columns.progress) + gap, "green")]
    if columns.command:
        line += [(cell(" ".join(job["command"] or ()), columns.command) + gap, "dim")]
    words = where_or_why(job)
    if not columns.progress and job.get("progress"):
        words = f"{progress(job, 0, canvas.glyphs)} {words}"
    return [*line, (words, style if job["state"] in ENDS and job["state"] != "completed" else "")]


def where_or_why(job: Map) -> str:
    """Return where it runs, how it ended, or why it waits; when, is another column."""
    if job["state"] in ENDS:
        return ending(job)
    if job["state"] in ACTIVE:
        late = "will not be done by its time limit" if (job.get("progress") or {}).get("ends_first") else None
        return "; ".join(filter(None, (where(job), late, job["reason"])))
    return job["reason"] or ""


def progress(job: Map, size: int, glyphs: Glyphs) -> str:
    """Return how far a job is; with `~` where it did not tell it itself, but gpud read it in its log.

    In `size` cells, with a bar where there is room; 0: in as few as may be.
    """
    told = job.get("progress")
    if not told:
        return ""
    done, total = told.get("done"), told.get("total")
    about = "" if told.get("told") else glyphs.about
    if not total or done is None:
        words = about + (f"{done:g}" if done is not None else "")
        return " ".join(filter(None, (words, told.get("message") or "")))
    percent = f"{about}{100 * done / total:.0f}%"
    if within_epoch(told) and size < 40:  # a bar would seem to be the whole job's
        return f"{percent} {told['message']}"
    if size < 12:
        return percent
    drawn = f"{bar(done / total, size - 6 if size < 22 else 12, glyphs)} {percent}"
    rest = size - cell_len(drawn) - 1
    more = f"{done:g}/{total:g} {clean(told.get('message') or '')}"
    return f"{drawn} {more}".rstrip() if rest >= len(f"{done:g}/{total:g}") else drawn


def _time(job: Map, now: float) -> str:
    """Return how long it ran, or has waited."""
    if job["started_at"] is None:
        return "" if job["ended_at"] is not None else format_duration(now - job["submitted_at"])
    return format_duration((job["ended_at"] or now) - job["started_at"])


def _when(job: Map, now: float, glyphs: Glyphs) -> str:
    """Return when it starts, how long it still runs (about, or at most), or how long ago it ended."""
    if job["ended_at"] is not None:
        return f"{_coarse(now - job['ended_at'])} ago"
    if job["state"] not in ACTIVE:
        expected = job["expected_start_at"]
        return "" if expected is None else "soon" if expected <= now else f"in {_coarse(expected - now)}"
    told = job.get("progress") or {}
    if told.get("remaining_s") is not None and not told["ends_first"]:
        return f"{glyphs.about}{_coarse(told['remaining_s'])}"
    if job["started_at"] is None:
        return ""
    ran_s, limit_s = now - job["started_at"], job["time_limit_s"]
    if job["estimate_s"] and ran_s < job["estimate_s"] < (limit_s or inf):
        return f"{glyphs.about}{_coarse(job['estimate_s'] - ran_s)}"
    if not limit_s:
        return ""
    return f"{glyphs.at_most}{_coarse(limit_left_s(job, now) or 0.0)}"


def _coarse(seconds: float) -> str:
    """Return a duration in one unit, two where the first is small: nobody plans a night by seconds."""
    left = max(0, round(seconds))
    if left < 60:
        return f"{left}s"
    if left < 3_600:
        return f"{left // 60}m"
    if left < 36_000:
        return f"{left // 3_600}h{left % 3_600 // 60:02}"
    return f"{left // 3_600}h" if left < 100 * 3_600 else f"{left // 86_400}d"
