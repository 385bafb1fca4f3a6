"""What everybody has used, the older the less: GPU-seconds that halve with every half-life.

Use counts when it happened: an attempt's GPU-seconds spread evenly over the time that it ran. An account is its value
at the moment of its last change, and decays from there by itself, so nothing is ever updated for time alone. The store
keeps the very same numbers, written with each attempt's end.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import expm1, log

from gpud.model.changes import UsePut
from gpud.model.units import Seconds, Timestamp

HALF_LIFE_S: Seconds = 7 * 86_400.0
_LOG_2 = log(2)


class Usage:
    """The accounts of all users and tenants; `None` for the user is the tenant's own.

    `half_life_s` may be changed once everybody is settled under the old one.
    """

    def __init__(self, half_life_s: Seconds = HALF_LIFE_S) -> None:
        self.half_life_s = half_life_s
        self._accounts: dict[tuple[str, str | None], UsePut] = {}
        self._lifted: set[tuple[str, str | None]] = set()  # since it was last asked

    def restore(self, kept: Iterable[UsePut]) -> None:
        """Take in what the store kept."""
        for each in kept:
            self._accounts[each.tenant, each.user] = each

    def twin(self) -> "Usage":
        """Return accounts that are as these, and go their own way from here."""
        twin = Usage(self.half_life_s)
        twin._accounts = dict(self._accounts)
        return twin

    def account(self, tenant: str, user: str | None, now: Timestamp) -> UsePut:
        """Return an account as it stands now: what was used, and what is counted on top of it (lifted) by a policy."""
        account = self._accounts.get((tenant, user))
        if account is None:
            return UsePut(tenant, user, 0.0, 0.0, now)
        if account.at >= now:
            return account
        left = 0.5 ** ((now - account.at) / self.half_life_s)
        return UsePut(tenant, user, account.used_s * left, account.lifted_s * left, now)

    def charge(self, tenant: str, user: str, gpu_s: Seconds, since: Timestamp, until: Timestamp) -> list[UsePut]:
        """Add GPU-seconds that were used evenly between two moments; return what to keep."""
        decay = _LOG_2 / self.half_life_s * max(0.0, until - since)
        # The integral of exp(-rate x age) over the time that it ran.
        used_s = gpu_s * (-expm1(-decay) / decay if decay else 1.0)
        return [self._add(tenant, user, used_s, until), self._add(tenant, None, used_s, until)]

    def _add(self, tenant: str, user: str | None, used_s: Seconds, at: Timestamp) -> UsePut:
        """Add to an account what had been used by some moment, which may be before its last change."""
        account = self._accounts.get((tenant, user))
        if account is None:
            account = UsePut(tenant, user, used_s, 0.0, at)
        elif account.at > at:
            late = 0.5 ** ((account.at - at) / self.half_life_s)
            account = UsePut(tenant, user, account.used_s + used_s * late, account.lifted_s, account.at)
        else:
            left = 0.5 ** ((at - account.at) / self.half_life_s)
            account = UsePut(tenant, user, account.used_s * left + used_s, account.lifted_s * left, at)
        return self._put(account)

    def lift(self, tenant: str, user: str | None, to_s: Seconds, now: Timestamp) -> None:
        """Count an account as if that much had been used, at least."""
        account = self.account(tenant, user, now)
        if account.used_s + account.lifted_s < to_s:
            self._put(replace(account, lifted_s=to_s - account.used_s))
            self._lifted.add((tenant, user))

    def lifted(self) -> list[UsePut]:
        """Return what to keep of those that were lifted since the last call."""
        if not self._lifted:
            return []
        lifted, self._lifted = sorted(self._lifted, key=repr), set()
        return [self._accounts[whose] for whose in lifted]

    def settle(self, now: Timestamp) -> list[UsePut]:
        """Bring all accounts up to now; return what to keep."""
        return [self._put(self.account(*whose, now)) for whose in self._accounts]

    def _put(self, account: UsePut) -> UsePut:
        self._accounts[account.tenant, account.user] = account
        return account
