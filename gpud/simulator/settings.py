"""What is set for a replay, as people write it: parameters of policies, what deciding keeps to, shares of tenants."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches

from gpud.core import rules
from gpud.core.policies import POLICIES
from gpud.model.tenant import Tenant
from gpud.simulator.trace import Trace, TraceError

_SHARE_LEAST, _SHARE_MOST = 0.001, 1e6


def read_settings(words: Sequence[str], policies: Sequence[str]) -> dict[str, float]:
    """Return what `KEY=VALUE` words set, for any of these policies. Raises TraceError for what none of them has."""
    own = [name for name in policies if name in POLICIES]
    if words and not own:
        raise TraceError(f"nothing can be set of {', '.join(policies)}", f"it can be of {', '.join(POLICIES)}")
    known = {each.name: each for name in own for each in POLICIES[name].parameters}
    known |= {each.name: each for each in rules.SETTINGS.values()}
    said = {}
    for word in words:
        key, text = _parts(word, "half_life=2d")
        if key not in known:
            raise TraceError(f"there is no setting {key!r} of {', '.join(own)}", _near(key, known))
        value = known[key].default if text == "default" else known[key].read(text)
        if value is None:
            raise TraceError(f"{key} cannot be {text!r}", known[key].wanted)
        said[key] = value
    return said


def read_shares(words: Sequence[str], policies: Sequence[str], trace: Trace) -> tuple[Tenant, ...]:
    """Return tenants with the shares that they have in a history, or that `NAME=SHARE` words give them.

    Where nobody looks at shares, only those who have something else of their own. Raises TraceError for those that no
    job is of.
    """
    if words and "fair_share" not in policies:
        raise TraceError("fair_share alone looks at shares", "--policy fair_share")
    there = {job.terms.tenant for job in trace.jobs} if words else set()
    fair = "fair_share" in policies
    tenants = {each.name: each for each in trace.tenants if fair or each != Tenant(name=each.name, share=each.share)}
    for word in words:
        name, text = _parts(word, "vision=3")
        if name not in there:
            raise TraceError(f"{trace.name}: no job is of a tenant {name!r}", _near(name, sorted(there)))
        try:
            share = float(text)
        except ValueError:
            share = 0.0
        if not _SHARE_LEAST <= share <= _SHARE_MOST:
            raise TraceError(f"the share of {name} cannot be {text!r}", "write a number, from 0.001 to 1000000")
        tenants[name] = replace(tenants.get(name, Tenant(name=name)), share=share)
    return tuple(tenants.values())


def _parts(word: str, example: str) -> tuple[str, str]:
    key, _, value = (part.strip() for part in word.partition("="))
    if not (key and value):
        raise TraceError(f"{word!r} sets nothing", f"write it as in {example}")
    return key, value


def _near(word: str, known: Iterable[str]) -> str:
    names = list(known)
    close = get_close_matches(word.lower(), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there is: {', '.join(names[:20])}"
