"""The settings of gpud: what is in force, where each comes from, and how to change one."""

from typing import Any

import click

from gpuctl import session
from gpuctl.errors import UsageError
from gpuctl.render.text import Column, clean, table
from gpuctl.session import Session, note

_COLUMNS = (Column("SETTING"), Column("VALUE", elastic=True), Column("FROM", elastic=True), Column("CHANGES"))


@click.command()
@click.argument("words", nargs=-1, metavar="[KEY | set KEY VALUE | unset KEY]")
@click.option("-a", "--all", "all_", is_flag=True, help="Those too that nobody has said anything about.")
@session.display
@click.pass_obj
def config(session: Session, words: tuple[str, ...], *, all_: bool) -> None:
    """Show the settings of gpud that differ from its defaults and where each is from, or one; or change one.

    `set` and `unset` edit the configuration file of your own gpud (root's: of the machine's), check it, and make gpud
    read it again. Your own defaults for submit and run are options in ~/.config/gpud/gpuctl.toml, a file of yours:

    \b
      gpuctl config --all                 gpuctl config set starvation 12h
      gpuctl config policy                gpuctl config unset starvation
    \b
      [submit]
      gpus = 0
      notify = ["failure=desktop"]
    """  # noqa: D301 - backspace is Click's mark for lines to leave alone
    match words:
        case ("set", key, value):
            _change(session, key, value)
        case ("set", pair) if "=" in pair:
            _change(session, *pair.split("=", 1))
        case ("unset", key):
            _change(session, key, None)
        case ("set" | "unset", *_):
            raise UsageError(f"{words[0]} what?", hint="gpuctl config set KEY VALUE, gpuctl config unset KEY")
        case ("get", key):
            _show(session, key.replace("-", "_"), all_=all_)
        case () | (_,):
            _show(session, words[0].replace("-", "_") if words else None, all_=all_)
        case _:
            raise UsageError(
                "one setting at a time", hint="gpuctl config KEY; to change it: gpuctl config set KEY VALUE"
            )


def _show(session: Session, key: str | None, *, all_: bool) -> None:
    settings = session.request("config", **({} if key is None else {"key": key}))["settings"]
    if session.json:
        session.print_json(settings)
    elif key is not None:
        (setting,) = settings
        facts = (
            ("value", _value(setting)),
            ("from", setting["source"]),
            ("written", setting["form"]),
            ("changes", "at once" if setting["live"] else "when gpud is started anew"),
        )
        session.show([f"{key}: {setting['help']}", *(f"  {name:<8} {clean(value)}" for name, value in facts)])
    else:
        shown = [each for each in settings if all_ or each["source"] != "default"]
        if shown:
            session.show(table(_COLUMNS, [_row(each) for each in shown]))
        if not all_:
            note(f"{len(settings) - len(shown)} more are as they come: gpuctl config --all")


def _row(setting: dict[str, Any]) -> tuple[str, ...]:
    return setting["key"], _value(setting), setting["source"], "at once" if setting["live"] else "at a restart"


def _value(setting: dict[str, Any]) -> str:
    return "(for administrators)" if setting["hidden"] else str(setting["written"])


def _change(session: Session, key: str, text: str | None) -> None:
    """Edit the file, and make the gpud that reads it read it again. Raises GpuctlError, before anything is changed."""
    from gpuctl.setup import editing  # noqa: PLC0415 - most calls only look

    key = key.replace("-", "_")
    path, gpud = editing.target(session)
    changed = editing.change(path, key, text)
    if gpud is not None and not changed:
        session.request("config", key=key)  # what there is not is no setting that is as wanted
    answer = editing.reloaded(session, gpud, key) if gpud is not None and changed else None
    if session.json:
        session.print_json({"file": path, "changed": changed, "setting": answer})
        return
    note(f"{'wrote' if changed else 'it is so already in'} {path}")
    if gpud is None:
        note("gpud does not run; it reads that when it starts")
    elif answer is not None and answer["source"][:1] in ("-", "$"):
        note(f"{key} stays {_value(answer)}: {answer['source']} comes before the file, also when gpud is started anew")
    elif answer is not None and not answer["live"]:
        note(f"{key} changes when gpud is started anew: {editing.restart_words()}")
    elif answer is not None:
        note(f"{key} is {_value(answer)} now")
