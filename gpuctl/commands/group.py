"""How far groups of jobs are."""

import time
from typing import Any

import click

from gpuctl import session
from gpuctl.render.text import Column, clean, in_words, table
from gpuctl.session import Session, note

_COLUMNS = (
    Column("GROUP", elastic=True),
    Column("USER", spare=True),
    Column("PROGRESS"),
    Column("DONE", right=True),
    Column("RUNNING", right=True),
    Column("WAITING", right=True),
    Column("FAILED", right=True),
    Column("CANCELLED", right=True),
    Column("ENDS"),
)
_CELLS = 20
_BAD = ("failed", "timed_out", "lost")


@click.command()
@click.argument("name", required=False)
@session.display
@click.pass_obj
def group(session: Session, /, name: str | None) -> None:
    """Show how far groups are: those with unfinished jobs and those of the last 24 hours, or the one named.

    Of several jobs with one key the newest counts. What waits of a group whose jobs fail one after the other is held.
    """
    answer = session.request("groups", **({} if name is None else {"name": name}))
    groups = answer["groups"]
    if session.json:
        session.print_json(groups)
        return
    if groups:
        session.show(table(_COLUMNS, [_row(each) for each in groups]))
    else:
        note("no groups; make one: gpuctl submit --group NAME ...")
    if answer.get("more"):  # an older gpud does not say
        note(f"{answer['more']} more, of others or older; one of them: gpuctl group NAME")
    for each in groups:
        if each["held"] is not None:
            note(clean(each["held"]))
        elif each["failed"] is not None and name is not None:
            note(f"the last that failed: gpuctl logs {each['failed']}")


def _row(group: dict[str, Any]) -> tuple[str, ...]:
    counts, total, done = group["counts"], group["total"], group["done"]
    bad = sum(counts.get(state, 0) for state in _BAD)
    waiting = counts.get("queued", 0) + counts.get("held", 0)
    ends = "" if group["expected_end_at"] is None else f"about {in_words(group['expected_end_at'], time.time())}"
    return (
        group["name"],
        group["user"],
        bar(counts.get("completed", 0), bad + counts.get("cancelled", 0), total),
        f"{done}/{total}",
        str(total - done - waiting or ""),
        f"{waiting or ''}{' held' if group['held'] is not None else ''}",
        str(bad or ""),
        str(counts.get("cancelled") or ""),
        ends,
    )


def bar(completed: int, bad: int, total: int) -> str:
    """Return a bar: `#` for what has completed, `x` for what ended otherwise; what there is of either shows."""
    good_cells = min(_CELLS, max(completed * _CELLS // max(total, 1), int(completed > 0)))
    bad_cells = min(_CELLS - good_cells, max(bad * _CELLS // max(total, 1), int(bad > 0)))
    return f"[{'#' * good_cells}{'x' * bad_cells}{'.' * (_CELLS - good_cells - bad_cells)}]"
