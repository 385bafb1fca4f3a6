"""gpud for everybody on the machine, under a real systemd: installed by the README's commands, restarted, killed."""

import json
from concurrent.futures import ThreadPoolExecutor
from shlex import quote

import pytest
from documented import commands
from watched import Running, state, succeeded

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(300)]  # a busy machine installs slowly

CONFIG = """simulate = "4xRTX4090"
log_level = "info"
"""
# Soon enough for a test; everything else stays as it is installed.
WATCHDOG_SOON = """sed -i s/WatchdogSec=.*/WatchdogSec=2/ /etc/systemd/system/gpud.service
systemctl daemon-reload
systemctl restart gpud
"""


@pytest.fixture(scope="module")
def machine(boot):
    box = boot()
    install, _ = commands("For everybody on the machine")
    box.run(f"mkdir -p /etc/gpud; cat > /etc/gpud/config.toml <<'.'\n{CONFIG}.")
    box.run(f"cd /srv/checkout\n{install}{WATCHDOG_SOON}", within_s=100)
    return box


def test_the_units_hold_nothing_that_systemd_does_not_understand(machine):
    done = machine.run("systemd-analyze verify /etc/systemd/system/gpud*.*")

    assert done.stdout + done.stderr == ""


def test_gpud_is_locked_away_and_its_jobs_are_not(machine):
    machine.run("systemd-analyze security --no-pager --threshold=30 gpud.service")
    free = machine.run("systemd-analyze security --no-pager --threshold=60 gpud-launcher.service", check=False)
    assert free.returncode == 1
    held = machine.says("grep NoNewPrivs /proc/$(systemctl show gpud -p MainPID --value)/status")
    assert held.split() == ["NoNewPrivs:", "1"]


def test_gpud_starts_with_the_machine_and_says_how_things_are(machine):
    assert machine.says("systemctl is-enabled gpud") == "enabled"
    assert state(machine)["ActiveState"] == "active"
    machine.await_("systemctl show gpud -p StatusText --value", "0 running, 0 waiting, 4 GPUs")

    job = Running(machine)
    machine.await_("systemctl show gpud -p StatusText --value", "1 running, 0 waiting, 4 GPUs")
    assert job.end(0) == (0, "told 0")


@pytest.mark.parametrize("user", ["alice", "root"])
def test_a_job_is_its_submitters_shell(machine, user):
    shell = (
        "id; pwd; umask; echo $HOME $USER; ulimit -Sa; ulimit -Ha; nice;"
        "grep -E '^(Cap|NoNew|Seccomp:|Sig(Blk|Ign|Cgt))' /proc/self/status; readlink /proc/self/ns/*"
    )

    here = machine.says(f"umask 027; ulimit -Sn 512; bash -c {quote(shell)}", user=user)
    there = machine.says(f"umask 027; ulimit -Sn 512; gpuctl run -g 0 -- bash -c {quote(shell)}", user=user)

    assert there == here


def test_a_job_has_the_groups_that_its_submitter_had_whatever_the_files_say(machine):
    alice = "HOME=/home/alice setpriv --reuid alice --regid alice --groups 4242,4243 --"

    assert machine.says(f"cd /; {alice} gpuctl run -g 0 -- id -G") == machine.says(f"{alice} id -G")


def test_nobody_gets_more_than_their_own_hard_limits(machine):
    program = """if True:
        import os
        from gpuctl import Client
        with Client() as client:
            print(client.request("submit", nonce="a" * 16, demand={"gpus": 0}, workdir="/", umask=18,
                command=["sh", "-c", "ulimit -Hn"], environment={"PATH": os.environ["PATH"]},
                limits={"NOFILE": [-1, -1]})["job"])
    """
    asked = f"ulimit -n 777; job=$(/opt/gpud/bin/python -c {quote(program)}); gpuctl wait $job; gpuctl logs $job"

    assert machine.says(asked, user="alice") == "777"


def test_a_script_of_a_users_runs_as_that_user(machine):
    script = "#!/bin/sh\nid -un; stat -c '%U %A' $0\n"
    machine.run(f"printf %s {quote(script)} > job.sh; chmod +x job.sh", user="alice")

    assert machine.says("gpuctl run -g 0 ./job.sh", user="alice").split() == ["alice", "alice", "-rwx------"]


def test_nobody_sees_into_or_changes_anothers_job(machine):
    job = Running(machine)

    for command in ("cancel", "hold", "requeue", "priority"):
        refused = machine.run(
            f"gpuctl {command} {job.id} {'5' if command == 'priority' else ''}", user="bob", check=False
        )
        assert refused.returncode == 4, refused
        assert "alice" in refused.stderr
    assert job.lives()

    [row] = [row for row in json.loads(machine.says("gpuctl list --json", user="bob")) if row["id"] == job.id]
    shown = json.loads(machine.says(f"gpuctl show {job.id} --json", user="bob"))
    for seen in (row, shown):
        assert seen["user"] == "alice"
        assert seen["state"] == "running"
        assert "bash" not in json.dumps(seen["command"])
        assert seen["output"] is None
    log = json.loads(machine.says(f"gpuctl show {job.id} --json", user="alice"))["output"]
    assert machine.run(f"cat {log}", user="bob", check=False).returncode != 0
    assert machine.run("ls /var/lib/gpud", user="bob", check=False).returncode != 0
    assert machine.says(f"stat -c '%U %a' {log} $(dirname {log})").split() == ["alice", "600", "alice", "700"]
    assert machine.run(f"gpuctl cancel {job.id}").returncode == 0
    assert machine.run(f"gpuctl wait {job.id}", check=False).returncode == 128 + 15
    assert not job.lives()


def test_what_is_done_by_hand_is_done_in_ones_own_jobs_as_oneself(machine):
    by_hand = """eval "$(gpuctl claim -g 1 --for 1h)"
    gpuctl exec $GPUD_CLAIM -- bash -c 'id -un; sed -n "s/^CapEff:\t//p" /proc/self/status; tail -n 1 /proc/self/cgroup'
    echo $GPUD_CLAIM"""
    who, may, where, claim = machine.says(by_hand, user="alice").split()
    assert (who, may) == ("alice", "0" * 16)
    assert where.endswith(f"/gpud-jobs.service/job-{claim}.1")

    for command in (f"exec {claim} -- true", f"attach {claim}", f"claim --release {claim}"):
        refused = machine.run(f"gpuctl {command}", user="bob", check=False)
        assert refused.returncode in {4, 125}, refused
        assert "not yours" in refused.stderr or "alice" in refused.stderr
    machine.run(f"gpuctl claim --release {claim}", user="alice")

    terminal = "script -qec \"gpuctl run -g 0 --pty bash -c 'stat -c %U $(tty); exit 7'\" /dev/null"
    ended = machine.run(terminal.replace("$(", "\\$("), user="alice", check=False)
    assert (ended.returncode, "alice" in ended.stdout) == (7, True), ended


def test_a_job_has_a_cgroup_of_its_own_and_opens_no_gpu_that_is_not_its_own(machine):
    opens = "for node in 0 255; do (: <> /var/tmp/nvidia$node) 2>&1 | sed 's/.*: //'; done; tail -n 1 /proc/self/cgroup"
    machine.run("for node in 0 255; do mknod -m 666 /var/tmp/nvidia$node c 195 $node; done")
    machine.run("echo 'fence = \"devices\"' >> /etc/gpud/config.toml; systemctl reload gpud")

    said = machine.says(f"gpuctl run -g 0 -- bash -c {quote(opens)}", user="alice").splitlines()
    outside = machine.says(opens, user="alice").splitlines()

    assert said[:2] == ["Operation not permitted", "No such device or address"]
    assert outside[:2] == ["No such device or address"] * 2
    assert "/system.slice/gpud-jobs.service/job-" in said[2]
    machine.run(f"cat > /etc/gpud/config.toml <<'.'\n{CONFIG}.\nsystemctl reload gpud")


def test_mine_is_mine_for_root_too(machine):
    job = Running(machine)
    machine.run("gpuctl cancel --mine")
    machine.run("gpuctl cancel --mine --user alice")
    machine.run("gpuctl cancel --mine", user="bob")
    assert job.lives()
    machine.run("gpuctl cancel --user alice")
    assert machine.run(f"gpuctl wait {job.id}", check=False).returncode == 128 + 15


def test_only_root_governs_the_machine(machine):
    for command in ("drain 0", "pause", "resume", "tenant create mine", "reserve all --to 1h"):
        refused = machine.run(f"gpuctl {command}", user="alice", check=False)
        assert refused.returncode == 4, refused


def test_the_machines_gpud_is_never_replaced_by_ones_own(machine):
    machine.run("systemctl stop gpud.socket")
    refused = machine.run("gpuctl list", user="alice", check=False)
    stopped = state(machine)["ActiveState"]
    machine.run("systemctl start gpud")

    assert stopped == "inactive"
    assert refused.returncode == 69
    assert "this machine's gpud does not answer" in refused.stderr
    assert "systemctl start gpud" in refused.stderr


DEEDS = {
    "gpud restarted": ("systemctl restart gpud", "gpud"),
    "gpud killed": ("systemctl kill -s KILL --kill-who=main gpud", "gpud"),
    "socket restarted often": ("for n in $(seq 7); do systemctl restart gpud.socket; done", "gpud"),
    "gpud frozen": ("systemctl kill -s STOP --kill-who=main gpud", "gpud"),
    "launcher restarted": ("systemctl restart gpud-launcher", "gpud-launcher"),
    "launcher killed": ("systemctl kill -s KILL --kill-who=main gpud-launcher", "gpud-launcher"),
    "both restarted": ("systemctl restart gpud-launcher gpud", "gpud"),
}


@pytest.mark.parametrize(("deed", "unit"), DEEDS.values(), ids=DEEDS)
def test_a_job_does_not_notice_that(machine, deed, unit):
    job = Running(machine)
    before = state(machine, unit)

    machine.run(deed)
    succeeded(machine, before, unit)

    assert job.lives()
    assert machine.says("gpuctl run -g 1 -- echo next", user="alice") == "next"
    assert job.lives()
    assert job.end(7) == (7, "told 7")


def test_who_asks_while_it_is_stopped_starts_it(machine):
    machine.run("systemctl stop gpud")

    assert machine.says("gpuctl run -g 0 -- echo here", user="alice") == "here"
    assert state(machine)["ActiveState"] == "active"


SUBMITS = """
import os, sys
from gpuctl import Client
told = []
while not os.path.exists("enough"):
    with Client() as client:
        told.append(client.request("submit", nonce=os.urandom(8).hex(), demand={"gpus": 0}, workdir="/", umask=18,
            command=["true"], environment={"PATH": os.environ["PATH"]}, limits={})["job"])
        assert client.request("show", job=told[-1])["job"]["id"] == told[-1]
assert len(set(told)) == len(told)
print(*told)
"""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("restarts", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_restarts_lose_nothing_and_nobody_notices(machine, restarts):
    machine.run(f"rm -f enough; cat > submits.py <<'.'\n{SUBMITS}.", user="alice")
    with ThreadPoolExecutor(1) as other:
        submitting = other.submit(machine.says, "/opt/gpud/bin/python submits.py", user="alice", within_s=800)
        machine.run(f"for n in $(seq {restarts}); do systemctl restart gpud; done", within_s=800)
        machine.run("touch enough", user="alice")
        told = submitting.result(100)

    assert len(told.split()) >= restarts // 10
    machine.run(f"gpuctl wait {told}", user="alice", within_s=200)  # which says so, were one not known or not completed


def test_what_ends_while_gpud_is_down_is_known_afterwards(machine):
    job = Running(machine)
    machine.run("systemctl stop gpud")
    job.tell(9)
    job.gone()
    machine.run("systemctl start gpud")

    assert machine.run(f"gpuctl wait {job.id}", user="alice", check=False).returncode == 9


def test_files_of_the_package_may_go_under_a_launcher_that_runs(machine):
    job = Running(machine)
    launchers = "$(echo /opt/gpud/lib/python*/site-packages/gpud/launchers)"

    machine.run(f"mv {launchers} /root/launchers")
    new = machine.says("gpuctl run -g 1 -- sh -c 'echo new; exit 0'", user="alice")
    old = job.end(5)
    machine.run(f"mv /root/launchers {launchers.replace('launchers)', ')')}")

    assert new == "new"
    assert old == (5, "told 5")


def test_without_a_launcher_jobs_wait_and_start_with_the_next(machine):
    machine.run("systemctl stop gpud-launcher")
    job = machine.says("gpuctl submit -g 0 -- true", user="alice")
    machine.await_(f"gpuctl show {job} --json | grep -c 'launcher process is not there' || true", "1")
    machine.run("systemctl start gpud-launcher")

    assert machine.run(f"gpuctl wait {job}", user="alice").returncode == 0


def test_a_reload_changes_what_the_next_job_is_told(machine):
    assert machine.says("gpuctl run -- sh -c 'echo $CUDA_VISIBLE_DEVICES'", user="alice").isdigit()
    before = state(machine)["MainPID"]

    machine.run("echo 'cuda_visible_devices = \"uuid\"' >> /etc/gpud/config.toml")
    [_, reload] = commands("For everybody on the machine")
    machine.run(reload)
    told = machine.says("gpuctl run -- sh -c 'echo $CUDA_VISIBLE_DEVICES'", user="alice")
    machine.run("echo 'cuda_visible = 1' >> /etc/gpud/config.toml")
    machine.run(reload)
    wrong = machine.says("journalctl -u gpud -p err -o cat")
    machine.run(f"cat > /etc/gpud/config.toml <<'.'\n{CONFIG}.\nsystemctl reload gpud")

    assert told.startswith("GPU-")
    assert "cuda_visible" in wrong
    assert state(machine)["MainPID"] == before
    assert state(machine)["ActiveState"] == "active"


def test_a_wrong_setting_ends_the_start_and_is_not_tried_again(machine):
    machine.run("systemctl stop gpud; echo 'nonsense = 1' >> /etc/gpud/config.toml")
    assert machine.run("systemctl start gpud", check=False).returncode != 0

    assert state(machine)["ActiveState"] == "failed"
    assert "unknown key 'nonsense'" in machine.says("journalctl -u gpud -o cat -n 20")
    told = machine.run("gpuctl list", user="alice", check=False)
    machine.await_("systemctl is-active gpud || true", "failed")
    machine.run(f"cat > /etc/gpud/config.toml <<'.'\n{CONFIG}.\nsystemctl start gpud")

    assert told.returncode == 69
    assert "unknown key 'nonsense'" in told.stderr


ASK = """
import os, signal, socket, subprocess, sys
sys.path[:0] = ["/srv/checkout", *__import__("glob").glob("/opt/gpud/lib/python*/site-packages")]
from gpud.wire.codec import Frames, pack
"""


def test_doctor_tells_root_that_the_machines_queue_is_damaged(machine):
    fine = machine.run("gpuctl doctor", check=False)
    assert "ok       configuration: gpud can start" in fine.stdout
    machine.run(
        "systemctl stop gpud.socket gpud; cd /var/lib/gpud; cp gpud.db /root/kept.db\n"
        "dd if=/dev/urandom of=gpud.db bs=4096 seek=2 count=3 conv=notrunc"
    )

    ill = machine.run("gpuctl doctor", check=False)
    machine.run("cp /root/kept.db /var/lib/gpud/gpud.db; systemctl start gpud.socket gpud")

    assert ill.returncode == 1
    assert "problem  configuration: gpud cannot start: /var/lib/gpud/gpud.db is damaged" in ill.stdout


def test_what_was_asked_before_a_stop_is_answered(machine):
    script = (
        ASK
        + """
pid = int(subprocess.check_output(["systemctl", "show", "gpud", "-p", "MainPID", "--value"]))
asked = socket.socket(socket.AF_UNIX)
asked.connect("/run/gpud/gpud.sock")
asked.sendall(pack({"protocol": [1, 1], "version": "0"}) + pack({"op": "ping", "id": 0}))
frames, replies = Frames(), []
while len(replies) < 2:
    replies += frames.feed(asked.recv(65536))
os.kill(pid, signal.SIGSTOP)
submit = {"op": "submit", "demand": {"gpus": 0}, "command": ["true"], "workdir": "/", "environment": {}, "umask": 18,
          "limits": {}}
for number in range(1, 51):
    asked.sendall(pack({**submit, "id": number, "nonce": f"{os.urandom(8).hex()}"}))
    asked.sendall(pack({"op": "list", "id": 100 + number}))
os.kill(pid, signal.SIGTERM)
os.kill(pid, signal.SIGCONT)
while data := asked.recv(65536):
    replies += frames.feed(data)
print(len([reply for reply in replies[2:] if reply["ok"]]))
"""
    )
    machine.run(f"cat > /root/ask.py <<'.'\n{script}.")

    assert machine.says("/opt/gpud/bin/python /root/ask.py") == "100"
    machine.await_("systemctl show gpud -p ActiveState --value", "inactive")
    assert state(machine)["Result"] == "success"
    machine.run("systemctl start gpud")


def test_an_upgrade_leaves_jobs_alone(machine):
    job = Running(machine)
    [upgrade] = commands("Upgrade")

    machine.run(f"cd /srv/checkout\n{upgrade}", within_s=100)

    assert job.lives()
    assert job.end(3) == (3, "told 3")


def test_code_that_others_can_change_is_not_installed(machine):
    machine.run("chmod g+w /opt; chgrp alice /opt")
    refused = machine.run("gpuctl daemon install --system --dry-run", check=False)
    machine.run("chmod g-w /opt; chgrp root /opt")

    assert refused.returncode == 1
    assert "/opt can be changed by other users" in refused.stderr
    assert machine.run("gpuctl daemon install --system", user="alice", check=False).returncode == 4


def test_what_was_installed_can_be_removed_and_jobs_run_on(machine):
    job = Running(machine)
    [remove] = commands("Remove")
    opens = "mknod -m 666 /var/tmp/gpu c 195 0; systemd-run -q --pipe --wait --slice=user-1001.slice --uid=alice"
    opens += " bash -c ': <> /var/tmp/gpu' 2>&1 | sed 's/.*: //'; rm /var/tmp/gpu"
    machine.run("echo 'login_fence = true' >> /etc/gpud/config.toml; systemctl restart gpud")
    machine.await_(opens, "Operation not permitted")

    machine.run("cp -r /opt/gpud /srv/gpud")

    removed = machine.run(remove)
    asked = machine.run("/srv/gpud/bin/python -m gpuctl list", user="alice", check=False)

    assert "leave /etc/gpud/config.toml" in removed.stdout + removed.stderr
    assert (asked.returncode, "without /etc/gpud/config.toml" in asked.stderr) == (69, True), asked
    assert machine.says(opens) == "No such device or address"
    assert job.lives()
    assert machine.run("systemctl status gpud gpud-launcher", check=False).returncode == 4  # no such unit
    left = "/opt/gpud /etc/systemd/system/gpud* /usr/local/bin/gpu* /run/gpud/*"
    assert machine.says(f"ls -d {left} 2>&- || true") == ""
    job.tell(0)
    job.gone()


# In the place of a file server: what is ordered before remote-fs.target is stopped after what is ordered after it.
FILES = """[Unit]
Before=remote-fs.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mkdir -m 777 /run/host/files
ExecStop=mv /run/host/files /run/host/gone
"""


def test_a_shutdown_has_jobs_save_what_they_have_while_file_servers_are_there(boot):
    machine = boot()
    install, _ = commands("For everybody on the machine")
    machine.run(f"mkdir -p /etc/gpud; cat > /etc/gpud/config.toml <<'.'\n{CONFIG}.")
    machine.run(f"cat > /etc/systemd/system/files.service <<'.'\n{FILES}.\nsystemctl start files remote-fs.target")
    machine.run(f"cd /srv/checkout\n{install}", within_s=100)
    trap = "trap 'sleep 1; echo saved >> saved; exit' TERM; touch began; while :; do sleep 0.1; done"
    machine.run(f"cd /run/host/files; gpuctl submit -- bash -c {quote(trap)}", user="alice")
    machine.await_("ls /run/host/files", "began")
    machine.run("systemctl restart gpud-launcher; systemctl stop gpud-launcher; systemctl start gpud-launcher")

    machine.shut_down()

    assert (machine.shared / "gone" / "saved").read_text() == "saved\n"
