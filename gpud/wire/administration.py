"""What operators ask: the second page of the protocol, whose first, `messages`, says how anything is asked.

In a user's own gpud its user may ask for all of it; in system mode operators or admins: see `people.roles`. Looking
is everybody's.
"""

from typing import Literal, NotRequired, TypedDict


class Drain(TypedDict):
    """Give out these GPUs, or whole nodes, no more (drain), or again (undrain). Reply: `ChangeReply`.

    A target: `INDEX` (one node), `NODE:INDEX`, a UUID prefix, or a node's name. Error `no_such_gpu`.
    """

    op: Literal["drain", "undrain"]
    id: int
    targets: list[str]
    reason: NotRequired[str]


class Pause(TypedDict):
    """Start no more jobs (pause), or start them again (resume). Reply: `changed`: bool."""

    op: Literal["pause", "resume"]
    id: int
    reason: NotRequired[str]


class TenantPut(TypedDict):
    """Make a tenant, or change what is named of one. Reply: `changed`: bool. Error `no_such_tenant`.

    `users` and `groups` are added, `remove_...` taken out; other lists replace what was there. `clear` names what has
    no limit (no GPUs of its own, no guarantee ...) any more. `gpus` are targets as of `Drain`.
    """

    op: Literal["tenant_create", "tenant_set"]
    id: int
    name: str
    users: NotRequired[list[str]]
    groups: NotRequired[list[str]]
    remove_users: NotRequired[list[str]]
    remove_groups: NotRequired[list[str]]
    guaranteed_gpus: NotRequired[int]
    max_gpus: NotRequired[int]
    max_running: NotRequired[int]
    max_queued: NotRequired[int]
    gpu_types: NotRequired[list[str]]
    gpu_hours: NotRequired[float]
    window_s: NotRequired[float]
    share: NotRequired[float]
    boost: NotRequired[int]
    gpus: NotRequired[list[str]]
    borrow: NotRequired[bool]
    clear: NotRequired[
        list[
            Literal[
                "guaranteed_gpus", "max_gpus", "max_running", "max_queued", "gpu_types", "gpu_hours", "gpus", "boost"
            ]
        ]
    ]


class TenantDelete(TypedDict):
    """Remove a tenant that has no jobs. Reply: `changed`: bool. Error `no_such_tenant`."""

    op: Literal["tenant_delete"]
    id: int
    name: str


class Tenants(TypedDict):
    """Every tenant, or one. Reply: `tenants`, a list of `TenantMap`. Error `no_such_tenant`."""

    op: Literal["tenants"]
    id: int
    name: NotRequired[str]


class TenantMap(TypedDict):
    """A tenant, and what it has now. None: no limit. `gpus` are its own, as `NODE:INDEX`.

    `gpu_hours_used` are those of its window, which ends at `window_ends_at`; `gpus_borrowed` are beyond its guarantee.
    """

    name: str
    users: list[str]
    groups: list[str]
    guaranteed_gpus: int
    max_gpus: int | None
    max_running: int | None
    max_queued: int | None
    gpu_types: list[str]
    gpu_hours: float | None
    window_s: float
    share: float
    boost: int
    gpus: list[str]
    gpu_uuids: list[str]
    borrow: bool
    gpus_used: float
    gpus_borrowed: float
    running: int
    queued: int
    gpu_hours_used: float
    window_ends_at: float


class Reserve(TypedDict):
    """Set GPUs aside from `at` (now) until `until`. Reply: `reservation`, its number.

    Errors `no_such_gpu`, `no_such_tenant`.
    `targets` as of `Drain`, or `all`. `whose` are tenants and users; without, nobody's jobs run there: maintenance.
    """

    op: Literal["reserve"]
    id: int
    targets: list[str]
    until: float
    at: NotRequired[float]
    whose: NotRequired[list[str]]
    reason: NotRequired[str]


class ReservationDelete(TypedDict):
    """Give the GPUs of a reservation back. Reply: `changed`: bool. Error `no_such_reservation`."""

    op: Literal["reservation_delete"]
    id: int
    reservation: int


class Reservations(TypedDict):
    """Every reservation that is not over. Reply: `reservations`, a list of `ReservationMap`."""

    op: Literal["reservations"]
    id: int


class ReservationMap(TypedDict):
    """GPUs set aside, for these users and tenants alone; for nobody where both are empty. `jobs` run there now."""

    reservation: int
    begins_at: float
    ends_at: float
    active: bool
    gpus: list[str]
    gpu_uuids: list[str]
    users: list[str]
    tenants: list[str]
    reason: str
    by: str
    jobs: list[str]


class PolicySet(TypedDict):
    """Order the queue by this policy (the same as now), with these values for its parameters. Reply: `changed`: bool.

    Values are written as people do: `1.5`, `2h`; `default` is the configuration's again. `reset`: all of it is.
    """

    op: Literal["policy_set"]
    id: int
    policy: NotRequired[str]
    parameters: NotRequired[dict[str, str]]
    reset: NotRequired[bool]


class Policies(TypedDict):
    """Which policy orders the queue. Reply: `policy`, its name, and `policies`, a list of `PolicyMap`."""

    op: Literal["policies"]
    id: int


class ParameterMap(TypedDict):
    """A parameter of a policy; `kind` says how it is written, values of a "duration" are in seconds.

    `default` is what it is where nobody says otherwise, neither an operator nor the configuration.
    """

    name: str
    kind: str
    value: float
    default: float
    says: str


class PolicyMap(TypedDict):
    """A policy, and its parameters as they are, or would be if it were in force."""

    name: str
    says: str
    parameters: list[ParameterMap]


class Backup(TypedDict):
    """Copy the database as it is now, without environments. Reply: `path`, of a copy that is the caller's to move away.

    Only for root, or who gpud runs as: nobody else could read it. `bytes` is its size.
    """

    op: Literal["backup"]
    id: int


class Settings(TypedDict):
    """The settings in force, or one of them. Reply: `settings`, a list of `SettingMap`."""

    op: Literal["config"]
    id: int
    key: NotRequired[str]


class SettingMap(TypedDict):
    """A setting of gpud. `source` is where it was said: a file, `$GPUD_KEY`, `--key`, `gpuctl policy`, or `default`.

    `written` is the value for people. `live`: a reload changes it in a running gpud. `hidden`: not for who asks, who
    gets None.
    """

    key: str
    value: object
    written: str | None
    source: str
    live: bool
    hidden: bool
    form: str
    help: str


ADMINISTRATION: dict[str, type] = {
    "drain": Drain,
    "undrain": Drain,
    "pause": Pause,
    "resume": Pause,
    "tenant_create": TenantPut,
    "tenant_set": TenantPut,
    "tenant_delete": TenantDelete,
    "reserve": Reserve,
    "reservation_delete": ReservationDelete,
    "policy_set": PolicySet,
}
INSPECTION: dict[str, type] = {
    "tenants": Tenants,
    "reservations": Reservations,
    "policies": Policies,
    "backup": Backup,
    "config": Settings,
}
