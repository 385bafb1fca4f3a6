"""One user's own gpud as a service of theirs, without root, under a real systemd."""

from shlex import quote

import pytest
from documented import commands
from watched import Running, state, succeeded

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(300)]  # a busy machine installs slowly

MINE = {"systemctl": "systemctl --user", "user": "alice"}


@pytest.fixture(scope="module")
def machine(boot):
    box = boot()
    install, linger = commands("For you alone")
    box.run("systemctl start user@$(id -u alice)")  # as a login does
    box.run("mkdir -p ~/.config/gpud; echo 'simulate = \"2xA10\"' > ~/.config/gpud/config.toml", user="alice")
    box.run(
        "mkdir ~alice/code; cd /srv/checkout; cp -r gpud gpuctl systemd LICENSE *.* ~alice/code; chown -R alice ~alice"
    )
    box.run(f"cd code\n{install}{linger}", user="alice", within_s=100)
    return box


def test_the_units_hold_nothing_that_systemd_does_not_understand(machine):
    done = machine.run("systemd-analyze --user verify ~/.config/systemd/user/gpud*.*", user="alice")

    assert done.stdout + done.stderr == ""


def test_it_serves_its_user_and_nobody_else(machine):
    said = machine.says("~/.local/bin/gpuctl run -- sh -c 'id -un; echo $CUDA_VISIBLE_DEVICES'", user="alice")
    assert said.split() == ["alice", "0"]

    path = machine.says("echo ~/.local/state/gpud/*/gpud.sock", user="alice")
    refused = machine.run(f"~alice/.local/bin/gpuctl --socket {path} list", user="bob", check=False)
    assert refused.returncode != 0


def test_who_asks_while_it_is_stopped_starts_it(machine):
    machine.run("systemctl --user stop gpud", user="alice")

    assert machine.says("~/.local/bin/gpuctl run -g 0 -- echo here", user="alice") == "here"
    assert machine.says("systemctl --user is-active gpud", user="alice") == "active"


def test_it_comes_with_the_machine_and_stays_without_a_session(machine):
    assert machine.says("systemctl --user is-enabled gpud", user="alice") == "enabled"
    assert machine.says("loginctl show-user alice -p Linger --value") == "yes"


DEEDS = {
    "gpud restarted": ("systemctl --user restart gpud", "gpud"),
    "gpud killed": ("systemctl --user kill -s KILL --kill-who=main gpud", "gpud"),
    "launcher restarted": ("systemctl --user restart gpud-launcher", "gpud-launcher"),
    "launcher killed": ("systemctl --user kill -s KILL --kill-who=main gpud-launcher", "gpud-launcher"),
}


@pytest.mark.parametrize(("deed", "unit"), DEEDS.values(), ids=DEEDS)
def test_a_job_does_not_notice_that(machine, deed, unit):
    job = Running(machine)
    before = state(machine, unit, **MINE)

    machine.run(deed, user="alice")
    succeeded(machine, before, unit, **MINE)

    assert job.lives()
    assert job.end(7) == (7, "told 7")


def test_a_job_that_ends_with_its_users_sessions_is_asked_first_and_goes_again(machine):
    path = "rm -f began saved; PATH=~/.local/bin:$PATH;"
    trap = "trap 'sleep 1; echo saved >> saved; exit 1' TERM; echo $GPUD_ATTEMPT > began; while :; do sleep 0.1; done"
    job = machine.says(f"{path} gpuctl submit --retries 1 --retry-on lost -- bash -c {quote(trap)}", user="alice")
    machine.await_("test -s began && echo yes || true", "yes", user="alice")
    first = int(machine.says("cat began", user="alice"))

    machine.run("systemctl stop user@$(id -u alice)")
    assert machine.says("cat saved", user="alice") == "saved"
    machine.run("systemctl start user@$(id -u alice)")

    machine.await_("cat began", str(first + 1), user="alice")
    machine.run(f"~/.local/bin/gpuctl cancel {job}", user="alice")
