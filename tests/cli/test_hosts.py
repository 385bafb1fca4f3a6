"""`gpuctl -H`: gpuctl on other machines, with an ssh that runs on this one what sshd would run there."""

import contextlib
import fcntl
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
from gpud_process import ROOT, Gpud, until

from gpuctl import Client, GpuctlError, RefusedError, UnreachableError
from gpuctl.remote import hosts as of_several, relaying

pytestmark = pytest.mark.xdist_group("hosts")
WITHIN_S = 60

SSH = """#!/bin/sh
# An ssh whose hosts are directories. The shell of who logs in there gets the words as sshd hands them on.
input=
while :; do
  case $1 in
    -o | -l | -p) echo "$1 $2" >> "$HOSTS/options"; shift 2;;
    -n) exec < /dev/null; shift;;
    -T | -t) echo "$1" >> "$HOSTS/options"; shift;;
    --) shift; break;;
    *) break;;
  esac
done
host=$1; shift
test "$host" != asleep || exec sleep 1000
test -d "$HOSTS/$host" || { echo "ssh: connect to host $host port 22: Connection refused" >&2; exit 255; }
cd "$HOSTS/$host/work"
exec env -i HOME="$HOSTS/$host" PATH="$HOSTS/bin:/usr/bin:/bin" TERM="$TERM" GPUD_CONFIG=/dev/null \\
  GPUD_STATE_DIR="$HOSTS/$host/state" TEST_OF_GPUD="$HOSTS/$host" GPUD_HOST=itself ${LOGIN_SHELL:-sh} -c "$*"
"""


class Hosts:
    """Two machines with a gpud each, `one` and `two`, and a laptop with gpuctl and ssh."""

    def __init__(self, folder):
        self.folder = folder
        self.gpuds = {name: Gpud(folder / name, "--simulate", spec) for name, spec in SPECS.items()}
        self.options = folder / "options"
        here, there = folder / "laptop", folder / "bin"
        for path, text in (
            (here / "ssh", SSH),
            (there / "gpuctl", f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m gpuctl "$@"\n'),
        ):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GPUD_", "XDG_"))}
        laptop = {"PATH": f"{here}:{os.environ['PATH']}", "HOSTS": str(folder), "HOME": str(here)}
        self.environ = {**kept, **laptop, "PYTHONPATH": str(ROOT), "GPUD_STATE_DIR": str(here / "state")}

    def __call__(self, *words, environ=None, **settings):
        command = [sys.executable, "-m", "gpuctl", *words]
        environ = self.environ | (environ or {})
        return subprocess.run(
            command, env=environ, timeout=WITHIN_S, check=False, capture_output=True, text=True, **settings
        )

    def ok(self, *words, **settings):
        done = self(*words, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


SPECS = {"one": "2xRTX4090", "two": "1xH100"}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    hosts = Hosts(tmp_path_factory.mktemp("hosts"))
    for gpud in hosts.gpuds.values():
        gpud.start()
    yield hosts
    assert [gpud.close() for gpud in hosts.gpuds.values()] == [[], []]


def test_a_job_is_queued_there_in_that_directory_and_environment(hosts):
    job = hosts.ok("-H", "ssh://ada@one:2222", "submit", "-g", "0", "--", "sh", "-c", "pwd; echo $HOME")
    hosts.ok("-H", "one", "wait", job)

    home = hosts.folder / "one"
    assert hosts.ok("-H", "one", "logs", job).splitlines() == [str(home / "work"), str(home)]
    assert {"-l ada", "-p 2222", "-T"} <= set(hosts.options.read_text().splitlines())
    assert hosts.ok("status", environ={"GPUD_HOST": "one"}).startswith("gpud ")
    assert not (hosts.folder / "laptop/state").exists()


def test_the_exit_status_is_the_commands(hosts):
    assert hosts("-H", "one", "run", "-g", "0", "--", "sh", "-c", "exit 7").returncode == 7
    assert hosts("-H", "one", "show", "999").returncode == 3
    assert hosts("-H", "one", "run", "-g", "0", "--", "sh", "-c", "exit 255").returncode == 255
    for where, wrong in (("nowhere", "ssh does not get there"), ("ssh://one/opt/gpuctl", "ssh finds no gpuctl there")):
        lost = hosts("-H", where, "list")
        assert lost.returncode == 69
        assert f": {wrong}\n  hint: " in lost.stderr
    assert hosts("-H", "a b", "list").returncode == 2


WORDS = [
    "",
    "a b",
    "it's",
    '"$HOME"',
    "back\\slash",
    "\\\\'",
    "$(id)",
    "`id`",
    "new\nline",
    "!hist",
    "~",
    "*",
    "{a,b}",
    "ü",
    "-",
    "&|;<>",
    "#c",
    "=x",
    "\t",
]


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh", "fish", "csh"])
def test_words_arrive_as_they_were_typed_whatever_the_shell_there(hosts, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    words = [word for word in WORDS if not (shell == "csh" and "\n" in word)]
    show = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *words]

    said = hosts.ok("-H", "one", "run", "-g", "0", "--", *show, environ={"LOGIN_SHELL": shell})

    assert json.loads(said) == words


def test_what_is_piped_in_reaches_who_reads_it_and_no_one_else(hosts):
    loop = "while read word; do gpuctl -H one submit --dry-run -g 0 -- echo $word; done"
    there = hosts.environ | {"PATH": f"{hosts.environ['PATH']}:{hosts.folder / 'bin'}"}
    said = subprocess.run(["sh", "-c", loop], input="a\nb\n", env=there, check=True, capture_output=True, text=True)
    many = hosts("-H", "one", "submit", "-f", "-", input="-g 0 -- true\n-g 0 -- true\n")

    assert said.stderr.count("it would be queued") == 2
    assert len(many.stdout.split()) == 2


def test_a_terminal_here_is_one_there(hosts):
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "gpuctl", "-H", "one", "submit", "-g", "0", "--", "true"]
    with subprocess.Popen(command, env=hosts.environ, stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        assert process.wait(WITHIN_S) == 0
    said = os.read(leader, 4096).decode()
    os.close(leader)

    assert "starts now" in said
    assert "-t" in hosts.options.read_text().splitlines()


def test_lists_and_status_of_several_hosts_name_the_host_and_who_does_not_answer(hosts):
    ids = {name: hosts.ok("-H", name, "submit", "--hold", "-n", f"on-{name}", "--", "true") for name in SPECS}
    both = ["-H", "one,two", "-H", "nowhere"]

    listed = hosts(*both, "list", "--state", "held")
    rows = json.loads(hosts.ok(*both[:2], "--json", "list", "-s", "held"))
    status = hosts(*both, "status")
    documents = json.loads(hosts("--json", environ={"GPUD_HOST": "one,nowhere"}).stdout)

    assert (listed.returncode, status.returncode) == (69, 69)
    assert [line.split()[:4] for line in listed.stdout.splitlines()] == [
        ["HOST", "ID", "STATE", "NAME"],
        *([name, ids[name], "held", f"on-{name}"] for name in SPECS),
    ]
    assert "nowhere does not answer: ssh: connect to host nowhere port 22: Connection refused" in listed.stderr
    assert {(row["host"], row["name"]) for row in rows} == {("one", "on-one"), ("two", "on-two")}
    assert "2 GPUs: 2 free (simulated)" in status.stdout
    assert "1 GPU: 1 free (simulated)" in status.stdout
    assert "no answer" in status.stdout
    many = hosts.ok("-H", "one", "submit", "-f", "-", "--hold", input="-g 0 -- true\n" * 20)
    assert " jobs more" in hosts.ok(*both[:2], "status").splitlines()[-1]
    hosts.ok("-H", "one", "cancel", *many.split())
    assert [document.get("simulated") for document in documents] == ["2xRTX4090", None]
    assert "refused" in documents[1]["error"].lower()
    assert hosts("-H", "nowhere,neither", "list").returncode == 69
    assert "one host at a time" in hosts(*both, "submit", "true").stderr
    nothing = hosts("-H", "one,two/usr/no/gpuctl", "list").stderr
    assert "two does not answer: ssh finds no gpuctl there" in nothing
    assert "ssh://two/~/.local/bin/gpuctl" in nothing
    both = both[:2]
    assert hosts.ok(*both, "list", "-s", "held", "--format", "{host}:{name}").split() == ["one:on-one", "two:on-two"]
    columns = hosts.ok(*both, "list", "-s", "held", "--columns", "host,name")
    assert columns.split() == ["HOST", "NAME", "one", "on-one", "two", "on-two"]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_host_that_hangs_holds_nobody_up(hosts, monkeypatch):
    for name, value in hosts.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(of_several, "_MORE_S", 0.2)
    before = threading.enumerate()
    (_, late), (_, soon) = of_several._each(["ssh://asleep", "ssh://one"], lambda client: client.request("status"))
    assert soon["simulated"] == "2xRTX4090"
    assert (late.message[:16], late.exit_status) == ("no answer within", 69)
    for thread in set(threading.enumerate()) - set(before):
        thread.join(30)
        assert not thread.is_alive(), thread


def test_watching_several_hosts_tells_of_every_change(hosts):
    command = [sys.executable, "-m", "gpuctl", "-H", "one,two", "--json", "watch"]
    with subprocess.Popen(command, env=hosts.environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            first = {json.loads(process.stdout.readline())["host"] for _ in range(2)}
            job = hosts.ok("-H", "two", "submit", "--hold", "-n", "seen", "--", "true")
            for line in process.stdout:
                told = json.loads(line)
                if told["host"] == "two" and job in [row["id"] for row in told["job_list"]]:
                    break
        finally:
            process.kill()

    assert first == {"one", "two"}


def test_the_screen_of_several_hosts_is_left_with_q(hosts):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("=4H", 24, 120, 0, 0))
    command = [sys.executable, "-m", "gpuctl", "-H", "one,nowhere", "watch"]
    environ = hosts.environ | {"TERM": "xterm"}
    with subprocess.Popen(command, env=environ, stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        said = b""
        while b"no answer" not in said or b"2 GPUs" not in said:
            said += os.read(leader, 4096)
        for key, shown in ((b"\r", b"Enter watches one"), (b"\r", b"RTX 4090"), (b"q", b"Enter watches one")):
            os.write(leader, key)
            seen = b""
            while shown not in seen:
                seen += os.read(leader, 4096)
        os.write(leader, b"q")
        with contextlib.suppress(OSError):  # the last who had it has left
            while os.read(leader, 4096):
                pass
        assert process.wait(WITHIN_S) == 0
    os.close(leader)
    assert b"asking one, nowhere" in said
    assert said.count(b"\x1b[K") == said.count(b"H\x1b[K")  # never behind a line: that may have filled its row


def test_a_client_reaches_another_machine_through_a_relay_and_again_after_a_restart(hosts, monkeypatch):
    for name, value in hosts.environ.items():
        monkeypatch.setenv(name, value)
    with Client("ssh://one") as client:
        events = client.events()
        held = hosts.gpuds["one"].submit("true", hold=True)
        assert next(event["job"] for event in events if event["kind"] == "submitted") == held
        restart = threading.Thread(target=hosts.gpuds["one"].restart)
        restart.start()
        restart.join()

        assert client.job(held).cancel()["changed"] == [held]
        assert next(event["job"] for event in events if event["kind"] == "cancelled") == held
        events.close()
        with pytest.raises(RefusedError):
            client.job("999")
        with pytest.raises(GpuctlError, match="on the machine"):
            client.submit(["true"])
    with pytest.raises(UnreachableError, match="Connection refused"):
        Client("ssh://nowhere").request("ping")
    monkeypatch.setenv("GPUD_SSH", str(hosts.folder / "missing"))
    with pytest.raises(UnreachableError, match="cannot run"):
        Client("ssh://one")


@pytest.mark.parametrize("host", ["http://dgx1", "-oProxyCommand=x", "a b", "ssh://"])
def test_what_names_no_host_is_said_so(host):
    with pytest.raises(GpuctlError, match="names no host"):
        relaying.address_of(host)


def test_an_empty_name_is_not_here(hosts):
    done = hosts("-H", "", "list")
    assert (done.returncode, "names no host" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("host", "ends"),
    [
        ("dgx1", ["--", "dgx1", "env -u GPUD_HOST gpuctl relay"]),
        ("ssh://dgx1/opt/g/bin/gpuctl", ["--", "dgx1", "env -u GPUD_HOST /opt/g/bin/gpuctl relay"]),
        ("ada@[::1]:22", ["-l", "ada", "-p", "22", "--", "::1", "env -u GPUD_HOST gpuctl relay"]),
        ("dgx1/~/.local/bin/gpuctl", ["--", "dgx1", "env -u GPUD_HOST .local/bin/gpuctl relay"]),
    ],
)
def test_a_host_is_a_name_or_an_address(host, ends, monkeypatch):
    monkeypatch.setenv("GPUD_SSH", "ssh -F 'my config'")

    assert relaying.command(relaying.address_of(host), ["relay"]) == ["ssh", "-F", "my config", *ends]


def test_a_relay_starts_the_users_own_gpud_and_ends_with_its_reader(hosts):
    (hosts.folder / "three/work").mkdir(parents=True)
    try:
        assert (
            hosts.ok("-H", "one,three", "--json", "list", "-s", "running", environ={"GPUD_SIMULATE": "1xH100"}) == "[]"
        )
        assert until((hosts.folder / "three/state/gpud.sock").exists)
    finally:
        hosts.ok("-H", "three", "daemon", "stop")
    until(lambda: not any(_is_relay(path, hosts) for path in Path("/proc").glob("[0-9]*/cmdline")))


def _is_relay(path, hosts):
    try:
        return (
            b"gpuctl\0relay" in path.read_bytes()
            and str(hosts.folder).encode() in path.with_name("environ").read_bytes()
        )
    except OSError:
        return False
