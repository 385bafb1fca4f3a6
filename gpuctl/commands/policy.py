"""Who goes first: the policy that orders the queue, and its parameters."""

import click

from gpuctl import session
from gpuctl.errors import UsageError
from gpuctl.parse import Parsed
from gpuctl.render import policies
from gpuctl.render.plain import reply
from gpuctl.session import Session, note


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not (key and equals and value):
        raise ValueError(f"{text!r} sets nothing; write KEY=VALUE, as in half_life=2d")
    return key, value


@click.command()
@click.argument("name", required=False)
@click.option(
    "--set",
    "settings",
    type=Parsed("KEY=VALUE", _setting),
    multiple=True,
    help="Set a parameter, or (KEY=default) give it the configuration's value again; may be repeated.",
)
@click.option("--reset", is_flag=True, help="Go back to the policy and the parameters of the configuration.")
@session.display
@click.pass_obj
def policy(session: Session, name: str | None, settings: tuple[tuple[str, str], ...], *, reset: bool) -> None:
    """Show which policy orders the queue, and what there is, or put another in force.

    As in `gpuctl policy fair_share --set half_life=2d`. It holds at once, for those who wait as well, and after a
    restart too; nobody loses their place.
    """
    if name is not None and reset:
        raise UsageError(
            "a policy and --reset contradict each other", hint="--reset goes back to the configuration's policy"
        )
    if name is None and not settings and not reset:
        found = reply(session.request("policies"))
        if session.json:
            session.print_json(found)
        else:
            session.show(policies.lines(found))
        return
    asked = {} if name is None else {"policy": name}
    answer = reply(session.request("policy_set", parameters=dict(settings), reset=reset, **asked))
    if session.json:
        session.print_json(answer)
    else:
        note("the queue is ordered anew" if answer["changed"] else "it is so already")
