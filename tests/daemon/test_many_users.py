"""Several users on one gpud, in system mode: who may do what, what they see of each other, and who waits for whom.

The users are those that every machine has (daemon, bin, games ...): tests become them only to connect.
"""

import asyncio
import contextlib
import grp
import itertools
import os
import pwd
import re
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
from fakenvml.fixture import compiler
from gpud_process import ROOT, Gpud, until

from gpuctl.cli import cli
from gpuctl.client import Client
from gpuctl.commands.daemon import reload
from gpuctl.errors import NotPermittedError, RefusedError
from gpuctl.following.follower import Follower
from gpud.intake.turns import MOST, Turns
from gpud.people.roles import RIGHTS, Role, right_of
from gpud.views.jobs import OF_OTHERS
from gpud.wire.codec import PROTOCOL, PROTOCOL_OLDEST, Frames, pack
from gpud.wire.messages import REQUESTS

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="only root becomes other users"),
    pytest.mark.xdist_group("many_users"),
]

ADA, BOB, VIEWER, OPERATOR, ADMIN = (pwd.getpwnam(name).pw_uid for name in ("daemon", "bin", "games", "man", "lp"))
UIDS = {Role.VIEWER: VIEWER, Role.USER: BOB, Role.OPERATOR: OPERATOR, Role.ADMIN: ADMIN, Role.ROOT: 0}
NAMELESS, SLOW = 54321, 54322
ADMINS = grp.getgrnam("staff").gr_gid
SETTINGS = """simulate = "2xRTX4090"
viewers = ["games"]
operators = ["man"]
admin_groups = ["staff"]
requests_at_once = 100000
job_limits = {NOFILE = "300:400"}
"""
SECRET = "hunter2"  # noqa: S105 - to be looked for


@contextlib.contextmanager
def being(uid, *groups):
    """Be somebody else for what is done inside, as far as the kernel tells others."""
    own = os.getgroups()
    try:
        os.setgroups(groups)
        os.setegid(uid)
        os.seteuid(uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(own)


class Posing(Client):
    """A client that stays who it connected as while it is answered."""

    def __init__(self, path, uid, *groups):
        self._who = (uid, *groups)
        with being(*self._who):
            super().__init__(path)

    def request(self, op, **fields):
        """Ask, as that user."""
        with being(*self._who):
            return super().request(op, **fields)


class System(Gpud):
    """A gpud for every user, in a folder that every user can reach."""

    @staticmethod
    def made(settings):
        folder = Path(tempfile.mkdtemp(prefix="gpud-users-", dir="/var/tmp"))
        folder.chmod(0o755)
        (folder / "config.toml").write_text(settings)
        socket_path = str(folder / "it" / "state" / "gpud.sock")
        options = ("--system", "--socket", socket_path, "--config", str(folder / "config.toml"))
        system = System(folder / "it", *options)
        system.folder.chmod(0o755)
        system.work.chmod(0o1777)
        return system

    def of(self, uid, *groups):
        """Return a connection of a user's."""
        return Posing(self.socket, uid, *(groups or ((ADMINS,) if uid == ADMIN else ())))

    def submitted(self, uid, *command, **fields):
        with self.of(uid) as client:
            return client.request("submit", **self.request_of(*command, **fields))["job"]

    def reconfigured(self, settings):
        """Have it read other settings."""
        before = self.said().count("configuration read again")
        (self.folder.parent / "config.toml").write_text(settings)
        self.signal(1)
        until(lambda: self.said().count("configuration read again") > before)

    def gone(self):
        left = self.close()
        shutil.rmtree(self.folder.parent)
        assert left == []


@pytest.fixture(scope="module")
def system():
    system = System.made(SETTINGS)
    yield system.start()
    system.gone()


@pytest.fixture
def ada(system):
    with system.of(ADA) as client:
        yield client


@pytest.fixture
def bob(system):
    with system.of(BOB) as client:
        yield client


@pytest.fixture(autouse=True)
def clean(request):
    """Leave nothing to the next test."""
    yield
    if "system" in request.fixturenames:
        system = request.getfixturevalue("system")
        system.ask("cancel", select={"state": ["held", "queued", "starting", "running", "stopping"]}, force=True)
        system.idle()


def filled(kind, op):
    """Return the least that a request may be: what must be there, and that as empty as its type allows."""
    empty = {str: "1", int: 1, float: 1.0, bool: False, list: [], dict: {}}
    found = {}
    for key in kind.__required_keys__ - {"op", "id"}:
        hint = get_type_hints(kind)[key]
        if hasattr(hint, "__required_keys__"):
            found[key] = filled(hint, op)
        else:
            choices = get_args(hint) if get_origin(hint) not in {list, dict} else ()
            found[key] = choices[0] if choices else empty[get_origin(hint) or hint]
    return found


def code_of(client, op, **fields):
    """Return the code with which a request is refused, None where it is done."""
    try:
        client.request(op, **fields)
    except RefusedError as refused:
        return refused.code
    return None


def test_every_request_has_its_line_in_the_table():
    assert set(RIGHTS) == set(REQUESTS)


def test_the_table_in_the_documents_is_the_one_in_force():
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", (ROOT / "docs/sharing.md").read_text(), re.MULTILINE))
    told = {role: set(re.findall(r"`(\w+)`", rows[role.name.lower()])) for role in Role}
    assert told == {role: {op for op, right in RIGHTS.items() if right.own is role} for role in Role}
    private = {right for right in RIGHTS.values() if right.own is not right.others}
    # What the rows of operators, and of root, say of others' jobs.
    assert private == {right_of("cancel"), right_of("exec")}


def test_each_role_may_ask_for_what_the_table_says_and_nothing_more(system):
    done = {}
    for role, uid in UIDS.items():
        with system.of(uid) as client:
            done[role] = {op for op in REQUESTS if code_of(client, op, **filled(REQUESTS[op], op)) != "not_permitted"}
        system.ask("resume")
    assert done == {role: {op for op in REQUESTS if role >= right_of(op).own} for role in UIDS}


def test_each_role_may_do_to_others_jobs_what_the_table_says(system):
    changes = [op for op in REQUESTS if "select" in getattr(REQUESTS[op], "__annotations__", {})]
    assert "cancel" in changes
    done = {}
    for role, uid in UIDS.items():
        jobs = {op: system.submitted(ADA, "true", hold=True) for op in changes}
        with system.of(uid) as client:
            done[role] = {
                op
                for op, job in jobs.items()
                if code_of(client, op, **filled(REQUESTS[op], op) | {"select": {"jobs": [job]}}) != "not_permitted"
            }
    assert done == {role: {op for op in changes if role >= right_of(op).others} for role in UIDS}
    with system.of(BOB) as client:  # nor does one who names a user hear that there was nothing to do
        assert code_of(client, "cancel", select={"user": "daemon"}) == "not_permitted"


def test_who_knows_anothers_nonce_neither_learns_of_their_job_nor_takes_its_place(system, ada, bob):
    request = system.request_of("true", hold=True)
    first = ada.request("submit", **request)["job"]
    its = bob.request("submit", **request)["job"]
    assert its != first
    for client, job in ((ada, first), (bob, its)):
        for retry in (False, True):
            assert client.request("submit", **request, retry=retry)["job"] == job
    many = {key: request[key] for key in ("environment", "umask", "limits")}
    jobs = [{key: request[key] for key in ("demand", "command", "workdir", "hold")}]
    asked = {"nonce": request["nonce"], "jobs": jobs, **many}
    (several,) = ada.request("submit_many", **asked)["jobs"]
    assert bob.request("submit_many", **asked)["jobs"] != [several]
    assert ada.request("submit_many", **asked, retry=True)["jobs"] == [several]


def test_what_runs_as_a_user_is_nobody_elses_to_change(system, ada):
    job = system.submitted(ADA, "true", hold=True)
    said = {"variables": {"LD_PRELOAD": "/tmp/mine.so"}, "workdir": "/tmp", "output": "/tmp/x", "error": "/tmp/x"}
    said["notify"] = [["end", "command:id"]]
    for uid in (OPERATOR, ADMIN):
        with system.of(uid) as client:
            for key, value in said.items():
                assert code_of(client, "update", select={"jobs": [job]}, **{key: value}) == "not_permitted"
            assert client.request("update", select={"jobs": [job]}, time_limit_s=60.0)["changed"] == [job]
    assert ada.request("update", select={"jobs": [job]}, **said)["changed"] == [job]


def test_roles_follow_a_reload(system, bob):
    def operates(client):
        return code_of(client, "drain", targets=["no such"]) == "no_such_gpu"

    assert not operates(bob)

    system.reconfigured(SETTINGS.replace('operators = ["man"]', 'operators = ["bin"]'))
    until(lambda: operates(bob))
    with system.of(OPERATOR) as client:
        assert not operates(client)

    system.reconfigured(SETTINGS)
    until(lambda: not operates(bob))


def test_what_is_told_of_the_fence_follows_a_reload(system, bob):
    system.reconfigured(SETTINGS + 'fence = "devices"\n')
    assert bob.request("status")["launcher"]["fence"] == "devices"
    system.reconfigured(SETTINGS)
    assert bob.request("status")["launcher"]["fence"] is None


def looks(client, job):
    """Everything that there is to see, as one text; about this job where one is meant."""
    told = []
    for op, right in RIGHTS.items():
        if right.own is not Role.VIEWER or op == "subscribe":
            continue
        for more in (
            {},
            {"all": True},
            {"job": job},
            {"jobs": [job]},
            {"since": 0},
            {"labels": [f"{SECRET}={SECRET}"]},
        ):
            with contextlib.suppress(RefusedError):
                told.append((op, client.request(op, **filled(REQUESTS[op], op) | more)))
    last = client.request("subscribe", since=0)["last"]
    while not any(each.get("event", {}).get("seq", 0) >= last for _, each in told if isinstance(each, dict)):
        told += [("pushed", each) for each in client.pushed(wait=True)]
    return told


def test_what_is_anothers_does_not_leave_the_daemon(system):
    private = system.folder / f"{SECRET}-dir"
    private.mkdir(exist_ok=True)
    private.chmod(0o777)
    fields = {
        "env": {"TOKEN": SECRET, f"{SECRET}_SET": "1"},
        "labels": {SECRET: SECRET},
        "workdir": str(private),
        "output": f"{private}/%j.log",
        "name": "train",
        "notify": [["waiting", f"mailto:{SECRET}@example.org"]],
    }
    script = b"#!/bin/sh\nsleep 1000 # " + SECRET.encode()
    jobs = {
        "runs": system.submitted(
            ADA, "sh", "-c", f"echo {SECRET}; sleep 1000", gpus=1, group="sweep", key=f"{SECRET}-key", **fields
        ),
        "a script": system.submitted(ADA, "./it.sh", SECRET, script=script, gpus=1, **fields),
        "waits": system.submitted(ADA, "sleep", f"1000{SECRET}", gpus=2, **fields),
        "no program": system.submitted(ADA, f"/{SECRET}/train", **fields),
        "no directory": system.submitted(ADA, "true", **fields | {"workdir": f"/{SECRET}"}),
        "failed": system.submitted(ADA, "sh", "-c", f"echo CUDA out of memory {SECRET}; exit 3", **fields),
        "retried": system.submitted(ADA, f"/{SECRET}/again", retries=1, **fields),
    }
    for kind in ("no program", "no directory", "failed"):
        system.ended(jobs[kind])
    for kind in ("runs", "a script"):
        system.running(jobs[kind])

    for uid in (BOB, VIEWER, OPERATOR):
        with system.of(uid) as client:
            for kind, job in jobs.items():
                seen = [(op, told) for op, told in looks(client, job) if SECRET in repr(told)]
                assert seen == [], (uid, kind)
                code = code_of(client, "cancel", select={"jobs": [job], "state": ["completed"]})
                assert code == (None if uid == OPERATOR else "not_permitted")
    with system.of(BOB) as client:
        shown = client.request("show", job=jobs["runs"])["job"]
        assert {key for key, value in shown.items() if value not in (None, {})} <= OF_OTHERS
        assert (shown["user"], shown["name"], shown["state"], shown["allocation"] != []) == (
            pwd.getpwuid(ADA).pw_name,
            "train",
            "running",
            True,
        )
        assert client.request("show", job=jobs["failed"])["job"]["exit_code"] == 3
    for uid in (ADA, ADMIN):
        with system.of(uid) as client:
            assert client.request("show", job=jobs["runs"])["job"]["workdir"] == str(private)
            assert SECRET in client.request("show", job=jobs["no program"])["job"]["reason"]
            assert SECRET in repr(client.request("why", job=jobs["no directory"]))
            [row] = client.request("list", jobs=[jobs["runs"]], labels=[f"{SECRET}={SECRET}"])["jobs"]
            assert row["labels"] == {SECRET: SECRET}


def test_who_follows_the_output_of_anothers_job_is_told_that_it_is_not_theirs(system, bob):
    job = system.submitted(ADA, "sleep", "600")
    system.running(job)
    with pytest.raises(NotPermittedError, match="is not yours to see"):
        Follower(bob, job).follow()


def test_who_queues_much_at_any_priority_is_passed_by_who_queues_one(system, ada):
    running = [system.submitted(ADA, "sleep", "1000", gpus=1) for _ in range(2)]
    for job in running:
        system.running(job)
    ada.request("submit", **system.request_of("sleep", "1000", gpus=1, array="0-199", priority=1000, name="many"))
    one = system.submitted(BOB, "sleep", "1000", gpus=1)

    assert system.ask("policies")["policy"] == "fair_share"
    assert system.job(one)["queue_position"] == 1
    ada.request("cancel", select={"jobs": running[:1]})
    system.running(one)
    assert [row["name"] for row in ada.request("list", state=["running"])["jobs"]].count("many") == 0


def test_whoever_has_very_many_groups_hides_nobodys_own(system, ada, bob):
    whole = system.request_of("true", hold=True)
    shared = {key: whole.pop(key) for key in ("nonce", "environment", "umask", "limits")}
    job = bob.request("submit", **whole, **shared, group="bobs")["job"]
    ada.request("submit_many", **shared, jobs=[whole | {"group": f"many-{number}"} for number in range(1_001)])
    told = bob.request("groups")
    assert (len(told["groups"]), told["groups"][0]["name"]) == (1_000, "bobs")
    assert told["more"] >= 2
    assert "bobs" not in {group["name"] for group in ada.request("groups")["groups"]}
    assert ada.request("groups", name="bobs")["groups"][0]["counts"] == {"held": 1}
    assert bob.request("cancel", select={"group": "bobs"})["changed"] == [job]


def test_who_changes_very_much_at_once_has_it_done_one_after_the_other(system, ada, bob):
    """Else a bite of each change is in every batch, and nobody else is answered before the last."""
    whole = system.request_of("true", hold=True)
    shared = {key: whole.pop(key) for key in ("nonce", "environment", "umask", "limits")}
    last = ada.request("submit_many", **shared, jobs=[whole] * 1_500)["jobs"][-1]
    began = system.ask("events", limit=1)["last"]
    large = [{"op": "priority", "id": 1, "select": {"mine": True}, "priority": number} for number in (1, 2)]
    small = {"op": "priority", "id": 1, "select": {"jobs": [last]}, "priority": 3}
    with contextlib.ExitStack() as stack:
        raws = [Raw(system, ADA) for _ in range(42)]
        for raw, request in zip(raws, large + [small] * 40, strict=True):
            stack.callback(raw.socket.close)
            raw.send(request)
        assert bob.request("submit", **system.request_of("true", hold=True))["job"]
        told = [raw.hear(2)[1].get("error", {}) for raw in raws]

    done = system.ask("events", since=began, limit=10_000)["events"]
    order = [each["detail"]["priority"] for each in done if each["kind"] == "priority"]
    assert sorted((number, len([*same])) for number, same in itertools.groupby(n for n in order if n != 3)) == [
        (1, 1_500),
        (2, 1_500),
    ]
    busy = [each for each in told if each]
    assert order.count(3) == 40 - len(busy)
    assert all(each["code"] == "busy" and each["retry_after_s"] > 0 for each in busy)


def test_of_ones_changes_not_very_many_wait():
    async def crowd():
        turns, began = Turns(), []

        async def change(number):
            async with turns.of(ADA):
                began.append(number)

        async with turns.of(ADA):
            waiting = [asyncio.create_task(change(number)) for number in range(MOST)]
            await asyncio.sleep(0)
            assert (turns.full(ADA), turns.full(BOB), began) == (True, False, [])
        await asyncio.gather(*waiting)
        assert (turns.full(ADA), began) == (False, [*range(MOST)])

    asyncio.run(crowd())


def test_who_asks_about_a_job_does_not_wait_for_what_nobody_works_out_by_then(system, ada, bob):
    """When everybody starts is worked out a twentieth of the time at most; of many who wait that leaves long rests."""
    whole = system.request_of("sleep", "1000", gpus=1, time_limit_s=1000)
    shared = {key: whole.pop(key) for key in ("nonce", "environment", "umask", "limits")}
    last = ada.request("submit_many", **shared, jobs=[whole] * 600)["jobs"][-1]
    until(lambda: bob.request("show", job=last)["job"]["expected_start_unknown"] != "it is being worked out: ask again")
    took_s = []
    for _ in range(3):
        job = bob.request("submit", **system.request_of("sleep", "1000", gpus=1))["job"]  # what was known is old
        began = time.monotonic()
        assert bob.request("show", job=job)["job"]["state"] == "queued"
        took_s.append(time.monotonic() - began)
    assert min(took_s) < 1.0  # the patience of who asks for one job


def test_a_priority_counts_among_ones_own_unless_an_operator_gives_it(system, bob):
    job = system.submitted(ADA, "sleep", "1000", gpus=2)
    system.running(job)
    low, high = (system.submitted(BOB, "true", gpus=2, priority=priority) for priority in (0, 7))
    assert system.job(high)["queue_position"] < system.job(low)["queue_position"]
    assert bob.request("priority", select={"jobs": [low]}, priority=9)["changed"] == [low]
    assert code_of(bob, "priority", select={"jobs": [job]}, priority=-9) == "not_permitted"

    system.ask("policy_set", policy="priority")
    assert code_of(bob, "submit", **system.request_of("true", priority=1)) == "not_permitted"
    assert code_of(bob, "priority", select={"jobs": [low]}, priority=1) == "not_permitted"
    assert bob.request("priority", select={"jobs": [low]}, priority=-1)["changed"] == [low]
    with system.of(OPERATOR) as client:
        assert client.request("priority", select={"jobs": [low]}, priority=10)["changed"] == [low]
    system.ask("policy_set", reset=True)


def test_a_job_is_its_submitters_with_what_a_login_would_set_and_no_more(system):
    tell = (
        "echo $HOME $USER $LOGNAME $SHELL; id -u; id -g; id -G; ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj;"
        " grep -E '^Cap(Prm|Eff|Amb)' /proc/self/status | cut -f 2 | sort -u"
    )
    with system.of(ADA, 4242, 4243) as client:
        job = client.request("submit", **system.request_of("sh", "-c", tell))["job"]
    system.ended(job)

    who = pwd.getpwuid(ADA)
    assert system.output(job).splitlines() == [
        f"{who.pw_dir} {who.pw_name} {who.pw_name} {who.pw_shell}",
        str(ADA),
        str(ADA),
        f"{ADA} 4242 4243",
        "300",
        "400",
        "100",
        "0" * 16,
    ]


def test_who_would_have_anothers_gpud_read_its_settings_again_is_told_whose_it_is(system):
    words = ["--socket", system.socket, "daemon", reload.name]
    with being(BOB), pytest.raises(NotPermittedError, match=f"pid {system.pid}. is another user's"):
        cli.main(words, standalone_mode=False)


def test_who_has_no_name_has_a_number(system):
    job = system.submitted(NAMELESS, "sh", "-c", "id -u; echo $USER", env={"USER": "root"})

    assert system.ended(job)["user"] == str(NAMELESS)
    assert system.output(job).split() == [str(NAMELESS), "root"]  # theirs to say; nobody believes it


def test_who_is_a_viewer_by_group_is_one_when_they_have_gone_too(system):
    system.reconfigured(SETTINGS + 'viewer_groups = ["games"]\n')
    games = grp.getgrnam("games").gr_gid
    with system.of(NAMELESS, games) as client:
        until(lambda: code_of(client, "cancel", select={"mine": True}) == "not_permitted")
    raw = Raw(system, NAMELESS, games)
    raw.send(
        {"op": "cancel", "id": 1, "select": {"mine": True}}, {"op": "submit", "id": 2, **system.request_of("true")}
    )
    raw.socket.close()
    for _ in range(3):
        system.ask("ping")
    assert system.ask("list", all=True, user=str(NAMELESS), name="true")["jobs"] == []
    system.reconfigured(SETTINGS)


def test_nobody_gets_limits_of_a_process_that_is_not_theirs(system):
    """As if the one that connected had ended, and root's had its number: this one is root's."""
    with being(ADA):
        client = Client(system.socket)
    with client:
        for limits in ({"NOFILE": [-1, -1]}, {}):
            assert code_of(client, "submit", **system.request_of("true") | {"limits": limits}) == "usage"


def test_who_does_not_say_their_limits_has_them_nevertheless(system, ada):
    """The launcher's are root's: a user whose processes are few would have as many as they like."""
    before = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (4711, before[1]))
    try:
        job = ada.request("submit", **system.request_of("cat", "/proc/self/limits"))["job"]
    finally:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, before)
    assert system.ended(job)["state"] == "completed"
    assert re.search(r"Max msgqueue size +4711 ", system.output(job))


class Raw:
    """A connection that sends without waiting for answers."""

    def __init__(self, system, uid, *groups):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        with being(uid, *groups):
            self.socket.connect(system.socket)
        self.frames = Frames()
        self.send({"protocol": [PROTOCOL_OLDEST, PROTOCOL]})

    def send(self, *messages):
        with contextlib.suppress(BrokenPipeError):  # it may have been told why, and hung up on, by now
            self.socket.sendall(b"".join(map(pack, messages)))

    def hear(self, count):
        """Return so many messages, or what there is until it hangs up."""
        heard = []
        while len(heard) < count and (data := self.socket.recv(1 << 18)):
            heard += self.frames.feed(data)
        return heard


def test_who_asks_too_much_is_told_when_to_ask_again_and_nobody_else_notices(system):
    limits = "requests_per_second = 20\nconnections_per_user = 4\nsubscriptions_per_user = 2\nrequest_mib = 1\n"
    system.reconfigured(SETTINGS.replace("= 100000", "= 30") + limits)
    with contextlib.ExitStack() as stack:
        flood = Raw(system, ADA)
        stack.callback(flood.socket.close)
        flood.send(*({"op": "ping", "id": number} for number in range(60)))
        _, *answers = flood.hear(61)
        busy = [each["error"] for each in answers if not each["ok"]]
        assert [each["id"] for each in answers] == list(range(60))
        assert 0 < len(busy) < 30  # a pause lets some of those behind a refused one in again
        assert {each["code"] for each in busy} == {"busy"}
        assert all(0 < each["retry_after_s"] < 5 for each in busy)

        began = time.monotonic()
        with system.of(ADA) as patient, system.of(BOB) as other:
            for _ in range(5):  # waits as it is told, and fails at none
                patient.request("ping")
                other.request("ping")
            others = [other.request("ping") for _ in range(10)]
        assert len(others) == 10
        assert time.monotonic() - began < 30

        more = [Raw(system, OPERATOR) for _ in range(5)]
        for each in more:
            stack.callback(each.socket.close)
        told = [each.hear(1)[0] for each in more]
        assert [each.get("error", {}).get("code") for each in told] == [None, None, None, None, "busy"]
        assert told[-1]["error"]["retry_after_s"] > 0

        with system.of(BOB) as client:
            assert [code_of(client, "subscribe") for _ in range(3)] == [None, None, "busy"]
        laborious = Raw(system, NAMELESS)  # what it sends is not large, and much work
        stack.callback(laborious.socket.close)
        variables = {f"V{number}": "" for number in range(100_000)}
        large = system.request_of("true", dry_run=True) | {"environment": variables}
        codes = []
        for number, request in enumerate(({"op": "submit", **large}, {"op": "submit", **large}, {"op": "ping"})):
            with being(NAMELESS):  # whose limits are looked up
                laborious.send({"id": number, **request})
                codes += [each.get("error", {}).get("code") for each in laborious.hear(1 if codes else 2)[-1:]]
        assert codes[0] is None
        assert "busy" in codes[1:]
        large = Raw(system, BOB)
        stack.callback(large.socket.close)
        large.socket.sendall((2 << 20).to_bytes(4, "big"))
        assert large.hear(2)[1]["error"]["code"] == "frame"
        assert all(system.ask("ping")["ok"] for _ in range(200))  # root asks as often as it likes
    words = "requests_per_second connections_per_user subscriptions_per_user submit_mib_per_day"
    system.reconfigured(SETTINGS + "".join(f"{word} = 0\n" for word in words.split()))  # no bounds
    with system.of(BOB) as client:
        assert code_of(client, "subscribe") is None
    system.submitted(BOB, "true", hold=True)
    system.reconfigured(SETTINGS)


@pytest.fixture(scope="module")
def slow_names(tmp_path_factory):
    """A library that makes the name service hang for one user."""
    library = tmp_path_factory.mktemp("names") / "slow_names.so"
    source = Path(__file__).with_name("slow_names.c")
    subprocess.run([*compiler(), "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def test_a_name_service_that_hangs_delays_whom_it_is_asked_about_and_nobody_else(slow_names):
    system = System.made('simulate = "2xRTX4090"\n')
    gate = system.folder / "names" / "gate"
    gate.parent.mkdir()
    gate.parent.chmod(0o777)
    system.environment |= {"LD_PRELOAD": str(slow_names), "SLOW_NAMES_GATE": str(gate)}
    try:
        system.start()
        slow = Raw(system, SLOW)
        slow.send({"op": "submit", "id": 1, **system.request_of("sh", "-c", "echo $HOME $USER")})
        slow.send({"op": "list", "id": 2, "mine": True})
        assert system.ended(system.submitted(ADA, "true"))["state"] == "completed"
        with being(SLOW):  # whose limits are looked up
            gate.write_text("open")
            _, taken, listed = slow.hear(3)
        slow.socket.close()

        assert [row["user"] for row in listed["jobs"]] == ["tardy"]
        system.ended(taken["job"])
        assert system.output(taken["job"]).split() == ["/home/tardy", "tardy"]

        job = system.submitted(SLOW, "true", hold=True)
        gate.write_text("")  # the account is deleted
        system.reconfigured('simulate = "2xRTX4090"\n')
        system.ask("release", select={"jobs": [job]})
        waits = system.when(job, lambda shown: shown["attempt"] > 1)
        assert (waits["state"], waits["user"]) == ("queued", "tardy")
        said = system.ask("show", job=job)["attempts"][0]["reason"]
        assert said == f"uid {SLOW} is nobody now, and was tardy"
        assert system.ended(system.submitted(NAMELESS, "true"))["state"] == "completed"
    finally:
        system.gone()


def test_who_submits_more_than_a_day_allows_is_told_when_to_go_on_and_nobody_else_notices(system):
    system.reconfigured(SETTINGS + "submit_mib_per_day = 1\n")
    script = {"script": b"#!/bin/sh\n" + b"#" * (1 << 20), "hold": True}
    system.submitted(ADA, "job.sh", **script)
    for fields in (script, {"hold": True}):
        with pytest.raises(RefusedError, match="1 MiB within a day") as refused:
            system.submitted(ADA, "job.sh", **fields)
        assert refused.value.code == "busy"
        assert "try again in" in refused.value.hint
    environment = {"PATH": "/usr/bin:/bin", "LARGE": "x" * 1000}
    for uid, count in ((BOB, 3), (0, 3)):
        for _ in range(count):
            system.submitted(uid, "job.sh", hold=True, environment=environment)
    system.submitted(0, "job.sh", **script)
    system.submitted(0, "job.sh", **script)
    job = system.submitted(BOB, "job.sh", hold=True, labels={f"l{at}": "x" * 1000 for at in range(100)})
    with system.of(BOB) as client:  # what a change brings, and what else a job is submitted with, counts as well
        codes = [code_of(client, "update", select={"jobs": [job]}, variables={"A": "x" * 500_000}) for _ in range(3)]
    assert codes == [None, None, "busy"]
    system.reconfigured(SETTINGS)
    system.submitted(ADA, "job.sh", **script)


def test_nobody_gets_back_into_a_group_by_a_job_of_before(system):
    def asked(op, job, *groups):
        with system.of(ADA, *groups) as client:
            return client.request(op, select={"jobs": [job]})

    with system.of(ADA, ADMINS) as client:
        jobs = {
            "release": client.request("submit", **system.request_of("id", "-G", hold=True))["job"],
            "requeue": client.request("submit", **system.request_of("id", "-G"))["job"],
        }
    assert system.ended(jobs["requeue"])["state"] == "completed"
    assert str(ADMINS) in system.output(jobs["requeue"]).split()
    for op, job in jobs.items():
        refused = asked(op, job, ADA)
        assert refused["changed"] == []
        assert "a group that you are not in now" in refused["notes"][job]
        assert asked(op, job, ADMINS, ADA)["changed"] == [job]
        assert system.ended(job)["state"] == "completed"
