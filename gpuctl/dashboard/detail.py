"""One job: what `show` says of it, then its log, following."""

from typing import Any

import click

from gpuctl.dashboard.board import Board
from gpuctl.dashboard.gpus import Canvas, of_job
from gpuctl.dashboard.paint import Line, style_of
from gpuctl.dashboard.queue import progress
from gpuctl.following.progress import left_in_words
from gpuctl.render.jobs import whole
from gpuctl.render.text import cell_len, clean, cut, plural

_LOG_LEAST = 6  # lines: what a program says last is what one comes for


def page(board: Board, canvas: Canvas, room: int) -> list[Line]:
    """Return `room` lines: facts, as many as leave the log its half where there is one, and the log's end."""
    answer = board.seen.answer
    if answer is None:
        return [[(board.seen.problem or f"job {board.job} ...", "yellow" if board.seen.problem else "dim")]][:room]
    facts = _facts(answer, canvas)
    logs = _has_log(answer["job"])
    most = max(1, room - (max(_LOG_LEAST, room // 2) if logs else 1))
    gpus = of_job(board.seen, canvas, str(board.job), most // 2)
    most -= len(gpus)
    if len(facts) > most:
        facts = [*facts[: most - 1], [("  ...  (all of it: gpuctl show)", "dim")]]
    facts += gpus
    left = room - len(facts) - 1
    log = _log(board, canvas.width, left) if logs and left > 0 else []
    return [*facts, _rule(board, answer["job"], canvas.width), *log][:room]


def _facts(answer: dict[str, Any], canvas: Canvas) -> list[Line]:
    job = answer["job"]
    lines: list[Line] = []
    plain = {**answer, "job": {**job, "progress": None}}  # that is drawn here, as a bar
    for at, text in enumerate(map(click.unstyle, whole(plain, now=canvas.now))):
        lines.append([(text, f"bold {style_of(job['state'])}".strip() if at == 0 else "")])
    if told := job.get("progress"):
        lines.insert(1, [(f"  {'progress':<10} {progress(job, 60, canvas.glyphs)}{left_in_words(told)}", "green")])
    return lines


def _has_log(job: dict[str, Any]) -> bool:
    return "array" not in job and job["started_at"] is not None and job["output"] is not None


def _rule(board: Board, job: dict[str, Any], width: int) -> Line:
    """Return the line above the log: which file, and whether it is followed."""
    log = board.seen.log
    if "array" in job:
        return [("an array: each of its elements has a log of its own", "dim")]
    if job["started_at"] is None and job["attempt"] > 1:
        return [(f"it has not started again; what it said before: gpuctl logs {job['id']}", "dim")]
    if job["started_at"] is None or job["output"] is None:
        return [
            ("no output: it has not started" if job["started_at"] is None else "its output is not yours to see", "dim")
        ]
    how = "log, following" if not board.up else f"log, {plural(board.up, 'line')} before its end (End follows)"
    return [(cut(f"{log.problem or how}: {clean(job['output'])}", width), "bold")]


def _log(board: Board, width: int, room: int) -> list[Line]:
    """Return the lines that are in sight."""
    board.room = max(1, room)
    lines = board.seen.log.lines
    board.up = max(0, min(board.up, len(lines) - board.room))
    shown = lines[max(0, len(lines) - board.up - room) : len(lines) - board.up]
    texts = [clean(line) for line in shown]
    if board.wraps:
        texts = [piece for text in texts for piece in _wrapped(text, width)][-room:]
    return [[(text, "")] for text in texts]


def _wrapped(text: str, width: int) -> list[str]:
    pieces, piece, used = [], "", 0
    for char in text:
        cells = cell_len(char)
        if used + cells > width:
            pieces.append(piece)
            piece, used = "", 0
        piece += char
        used += cells
    return [*pieces, piece]
