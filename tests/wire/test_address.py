import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gpud.wire import address
from gpud.wire.address import AddressError

NOWHERE = "/nonexistent/gpud.sock"
MOUNTS = rb"""22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:26 / /dev/shm rw - tmpfs tmpfs rw
41 22 0:40 / /home rw shared:20 - nfs4 filer:/home rw,vers=4.2
42 41 0:41 / /home/ann/local\040disk rw - tmpfs none rw
43 22 0:42 / /mnt/box rw - fuse.sshfs box: rw
44 22 0:43 / /mnt/box2 rw - fuse.mergerfs a:b rw
45 22 0:44 / /project rw - autofs systemd-1 rw
46 22 0:45 / /project rw - lustre mds:/project rw
"""


# Its server is gone: whatever is asked of it fails.
DEAD = """
import ctypes, os, sys
from gpud.wire import address
try:
    server = os.open("/dev/fuse", os.O_RDWR)
except OSError:
    sys.exit(77)
options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
if ctypes.CDLL(None).mount(b"box:", sys.argv[1].encode(), b"fuse.sshfs", 0, options):
    sys.exit(77)
os.close(server)
print(address.network_type(sys.argv[1] + "/state"))
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home, and none of our variables."""
    for name in ("GPUD_SOCKET", "GPUD_STATE_DIR", "GPUD_CONFIG", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def configured(home, text):
    path = home / ".config" / "gpud" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_state_is_the_users_own_and_this_machines_alone(home):
    assert address.state_dir() == f"{home}/.local/state/gpud/{address.machine_id()}"
    assert address.socket_path(system=NOWHERE) == f"{address.state_dir()}/gpud.sock"


def test_the_first_place_that_somebody_named_wins(home, monkeypatch, tmp_path):
    system = tmp_path / "run.sock"
    system.touch()
    assert address.socket_path(system=str(system)) == str(system)

    configured(home, 'state_dir = "~/kept"')
    assert address.socket_path(system=str(system)) == f"{home}/kept/gpud.sock"

    monkeypatch.setenv("GPUD_STATE_DIR", "/srv/state")
    assert address.socket_path(system=str(system)) == "/srv/state/gpud.sock"

    monkeypatch.setenv("GPUD_SOCKET", "/srv/own.sock")
    assert address.socket_path(system=str(system)) == "/srv/own.sock"
    assert address.socket_path("/x.sock", system=str(system)) == "/x.sock"


def test_a_socket_named_in_the_configuration_is_found_by_the_client(home):
    configured(home, 'socket = "/srv/lab.sock"\n')

    assert address.socket_path(system=NOWHERE) == "/srv/lab.sock"


@pytest.mark.parametrize("text", ["socket = ", "socket = 3", 'socket = "relative.sock"', '# socket = "/x"'])
def test_a_broken_configuration_is_the_daemons_to_complain_about(home, text):
    configured(home, text)

    assert address.socket_path(system=NOWHERE) == f"{address.state_dir()}/gpud.sock"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/ann/.local/state", "nfs4"),
        ("/home/ann/local disk/state", None),
        ("/homework", None),
        ("/mnt/box/state", "fuse.sshfs"),
        ("/mnt/box2/state", None),
        ("/project/state", "lustre"),
        ("/dev/shm/state", None),
        ("/", None),
    ],
)
def test_a_network_file_system_is_known_by_its_mount(path, kind):
    assert address.network_type(path, MOUNTS) == kind


def test_a_disk_of_this_machine_is_no_network(tmp_path):
    assert address.network_type(str(tmp_path / "not" / "there")) is None
    assert address.network_type("/proc") is None


def test_a_network_file_system_is_known_also_while_its_server_does_not_answer(tmp_path):
    alone = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", DEAD, str(tmp_path)]
    told = subprocess.run(alone, capture_output=True, text=True, check=False)
    if told.returncode in {1, 77} and "Traceback" not in told.stderr:
        pytest.skip("no mounts of one's own here")
    assert told.stdout == "fuse.sshfs\n", told.stderr


def test_a_home_on_the_network_puts_state_into_a_directory_of_ones_own(tmp_path):
    mounts = f"22 1 0:9 / / rw - ext4 x rw\n41 22 0:40 / {tmp_path} rw - nfs4 filer:/home rw\n".encode()

    assert address.network_type(str(tmp_path / "state"), mounts) == "nfs4"
    own = tmp_path / f"gpud-{os.getuid()}"
    assert address.private_dir(str(tmp_path)) == str(own)
    assert own.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("squat", ["open to all", "a link", "a file"])
def test_a_directory_that_is_not_ones_own_alone_is_not_trusted(tmp_path, squat):
    path = tmp_path / f"gpud-{os.getuid()}"
    if squat == "open to all":
        path.mkdir()
        path.chmod(0o777)
    elif squat == "a link":
        path.symlink_to(tmp_path)
    else:
        path.touch()

    with pytest.raises(AddressError, match="not a directory of yours alone") as refused:
        address.private_dir(str(tmp_path))
    assert "GPUD_STATE_DIR" in refused.value.hint


def test_a_long_path_is_reached_by_the_address_beside_it(tmp_path):
    path = tmp_path / ("x" * 60) / ("y" * 60) / "gpud.sock"
    long = str(path)
    assert address.reachable(long) == long  # nobody listens there: connecting will say so

    path.parent.mkdir(parents=True)
    Path(address.address_file(long)).write_text("/var/tmp/short.sock")
    assert address.reachable(long) == "/var/tmp/short.sock"
    assert address.reachable("/short.sock") == "/short.sock"


@pytest.mark.parametrize(
    "sign", ["etc/gpud/config.toml", "usr/lib/systemd/system/gpud.socket", "etc/systemd/system/gpud.service"]
)
def test_a_machine_with_a_gpud_of_its_own_is_known_by_its_files(tmp_path, sign):
    assert not address.has_system_gpud(str(tmp_path))

    (tmp_path / sign).parent.mkdir(parents=True)
    (tmp_path / sign).touch()
    assert address.has_system_gpud(str(tmp_path))
    assert address.has_system_units(str(tmp_path)) is not sign.startswith("etc/gpud")


def test_a_machine_without_an_id_goes_by_its_name():
    assert address.machine_id() in {address._read("/etc/machine-id").decode().strip(), socket.gethostname()}


def test_finding_the_socket_imports_nothing_that_is_slow():
    slow = {"pathlib", "platformdirs", "dataclasses", "asyncio", "tomllib", "json", "logging", "gpud.wire.messages"}
    code = "import sys; from gpud.wire import address, codec; address.socket_path(); print(*sys.modules)"
    bare = subprocess.check_output([sys.executable, "-c", "import sys; print(*sys.modules)"], text=True).split()
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()

    assert slow.isdisjoint(set(loaded) - set(bare))
