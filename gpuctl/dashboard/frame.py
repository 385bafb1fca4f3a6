"""A frame: every line of the screen, made of what was seen and what was chosen. No clock, no terminal, no gpud here."""

import time

from gpuctl.dashboard import detail, gpus, queue
from gpuctl.dashboard.board import Board
from gpuctl.dashboard.gpus import Canvas
from gpuctl.dashboard.paint import Line, length, spread, style_of, within
from gpuctl.dashboard.source import Map
from gpuctl.render.jobs import written_id
from gpuctl.render.text import cut, plural

_ROWS_LEAST = 6  # of the jobs, before the GPUs get more lines
_ILL_MOST = 2
_KEYS = (
    ("q", "quit"),
    ("?", "help"),
    ("Enter", "job and log"),
    ("/", "search"),
    ("m", "mine"),
    ("c", "cancel"),
    ("h", "hold"),
    ("p", "priority"),
    ("r", "rerun"),
    ("space", "mark"),
    ("u", "user"),
    ("g", "GPUs"),
)
_JOB_KEYS = (
    ("Esc", "back"),
    ("q", "quit"),
    ("?", "help"),
    ("Up Down PgUp", "scroll"),
    ("End", "follow"),
    ("w", "wrap"),
    ("c", "cancel"),
    ("h", "hold"),
    ("p", "priority"),
    ("r", "rerun"),
)
_HELP = """\
 Look
   1 2 3 4, Tab   all, running, queued, finished jobs
   Up Down j k    choose a job; PgUp PgDn Home End
   Enter          one job: all about it, its log following; Esc goes back
   / words        only jobs in which all the words are; Esc shows all again
   m   u          only mine; only one user's
   g              GPUs: as there is room, none, nothing else
 Change, after a question
   space          mark jobs: the next key is for all of them
   c              cancel: TERM, after its grace KILL; f in the question: at once
   h              hold what waits; release what is held
   p              priority: higher goes first, and may preempt
   r              run again what has ended
 In the log
   Up PgUp Home   scroll, it stands still then; End follows; w wraps long lines
 Words
   TIME           how long it runs, ran or has waited
   WHEN           expected start; {at_most} time limit; {about} estimate; when it ended
   foreign        used by a process that gpud did not start; not given out
   Ctrl-L draws anew, Ctrl-Z suspends, q or Ctrl-C leaves; jobs do not notice

 any key goes back"""


def frame(board: Board, canvas: Canvas, height: int) -> list[Line]:
    """Return at most `height` lines of at most `canvas.width` cells. The board learns where its cursor came to be."""
    top = _heading(board, canvas)
    foot = [[] if board.help else _foot(board, canvas.width)]
    room = height - len(top) - len(foot)
    if board.help:
        body = _help(canvas)[: max(0, room)]
    elif board.job is not None:
        body = detail.page(board, canvas, room)
    else:
        body = _overview(board, canvas, room)
    if board.seen.away:
        body = gpus.dimmed(body)
    lines = [*top, *body, *([[]] * (room - len(body))), *foot]
    return [within(line, canvas.width) for line in (lines if height > 2 else [*foot, *lines][:height])][:height]


def _heading(board: Board, canvas: Canvas) -> list[Line]:
    """Return what matters of gpud, in a line; and in another what is wrong."""
    seen, status = board.seen, board.seen.status
    counts = status.get("jobs", {})
    states = [
        (state, counts[state]) for state in ("running", "starting", "stopping", "queued", "held") if counts.get(state)
    ]
    left: Line = [("gpud", "bold"), *((f"  {count} {state}", style_of(state)) for state, count in states)]
    if status.get("paused") is not None:
        why = f": {status['paused']}" if status["paused"] else ""
        left.append((f"  PAUSED{why}", "yellow bold"))
    clock: Line = [(time.strftime("%H:%M", time.localtime(canvas.now)), "dim")]
    # What the screen says elsewhere, or does not change, is the first to go where there is no room.
    simulated = f"simulates {status['simulated']}" if status.get("simulated") else ""
    for piece in (_free(board), simulated):
        if piece and length(left) + len(piece) + 8 <= canvas.width:
            left.append((f"  {piece}", ""))
    lines = [spread(left, clock, canvas.width)]
    wrong = [seen.away, status.get("storage"), status.get("problem"), *_ill(board)]
    return lines + [[(f" {text}", "red bold")] for text in wrong if text]


def _ill(board: Board) -> list[str]:
    """Return the GPUs that are not well, in words that a line of the pane may have no room for."""
    ill = [gpu for gpu in board.seen.gpus if gpu["state"] in ("unhealthy", "lost", "unknown")]
    words = [
        f"GPU {'-' if gpu['index'] is None else gpu['index']} {gpu['state']}: {gpu['health_reason']}"
        for gpu in ill
        if gpu["health_reason"]
    ]
    return words if len(words) <= _ILL_MOST else [*words[: _ILL_MOST - 1], f"{len(ill)} GPUs in all are not well"]


def _free(board: Board) -> str:
    """Return how many GPUs are free: what one who has a job in mind looks for first."""
    gpus = [gpu for gpu in board.seen.gpus if gpu["state"] != "split"]
    free = sum(gpu["state"] == "free" for gpu in gpus)
    return f"{free} of {plural(len(gpus), 'GPU')} free" if gpus else ""


def _overview(board: Board, canvas: Canvas, room: int) -> list[Line]:
    """Return GPUs, tabs, jobs, and in a line of its own all that there is to say of the job under the cursor."""
    if board.gpus == "only":
        return gpus.pane(board.seen, canvas, room)
    rows = board.rows()
    lines: list[Line] = []
    if board.gpus == "auto":
        most = min(len(board.seen.gpus) + 1, max(room // 2 - 1, room - _ROWS_LEAST - len(rows) - 2))
        lines += gpus.pane(board.seen, canvas, most if room >= 8 else 0)
    lines.append(queue.tabs(board, rows, canvas.width))
    about = 1 if room - len(lines) >= 5 else 0
    left = room - len(lines) - about
    board.settle(rows, left - 1)
    table = queue.table(board, rows, canvas, left)
    more = queue.unshown(board, rows, left)
    if more and len(table) == left and board.at < board.top + left - 2:
        table[-1] = [(f" ... {plural(more + 1, 'job')} more", "dim")]
    lines += table + [[]] * (left - len(table))
    chosen = next((job for job in rows if job["id"] == board.cursor), None)
    if about:
        lines.append(_about(chosen) if chosen is not None else [])
    return lines


def _about(job: Map) -> Line:
    words = [queue.where_or_why(job), " ".join(job["command"] or ())]
    return [(f" {cut(written_id(job), 20)} {job['name']}: ", "bold"), ("  $ ".join(filter(None, words)), "")]


def _foot(board: Board, width: int) -> Line:
    if board.prompt is not None:
        question = board.prompt.question
        if board.prompt.keys is None:
            return [(f" {question}: {board.prompt.text}", "bold"), ("_", "reverse")]
        asked, mark, answers = question.rpartition("?  ")  # however long a name is, the answers are to be seen
        return [(f" {cut(asked, max(12, width - len(mark + answers) - 1))}{mark}{answers}", "bold")]
    if board.message:
        return [(f" {board.message}", "bold")]
    line: Line = []
    for key, what in _JOB_KEYS if board.job is not None else _KEYS:
        piece: Line = [(" " if not line else "  ", ""), (key, "bold"), (f" {what}", "dim")]
        if length(line) + length(piece) > width:
            break
        line += piece
    return line


def _help(canvas: Canvas) -> list[Line]:
    text = _HELP.format(at_most=canvas.glyphs.at_most, about=canvas.glyphs.about)
    return [
        [(line, "bold" if line[1:2].isalpha() and not line.startswith(" any") else "")] for line in text.split("\n")
    ]
