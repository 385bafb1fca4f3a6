"""The fence: a job can open the device nodes of its own GPUs, and no other GPU's.

CUDA_VISIBLE_DEVICES is a request; this is the kernel's word. There are two kinds:

* `devices`, root's: a BPF program on the job's cgroup (`BPF_PROG_TYPE_CGROUP_DEVICE`, linux/bpf.h; Linux 4.15). It is
  asked at every open of a device node, whatever its path, and changes nothing else: sudo, setuid programs, mounts and
  containers inside the job stay as they are. Slurm and systemd's `DeviceAllow=` do the same. A program that is on a
  cgroup stays until that is removed, whoever made it.
* `landlock`, anybody's, only on request (landlock(7), ABI 2: Linux 5.19): no path that leads to the nodes can be
  opened. Who is not root loses setuid programs with it (no_new_privs), and nobody inside can mount.

Neither stops who gets a process started elsewhere: by ssh to this machine, cron, `systemd-run`, a container daemon.

NVIDIA's nodes have major 195, minor N for the GPU of /dev/nvidiaN, 254 and 255 for all. Of a GPU that MIG split, a
process needs the capability nodes of its instance as well; their major is the driver's choice.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Sequence
from typing import Any

from gpud.launchers import faults

DEVICES, LANDLOCK = "devices", "landlock"
NVIDIA = 195
_ALL_GPUS = 254  # modeset, and 255 the control device: no GPU's own
Devices = Sequence[Sequence[int]]
"""Device numbers, major and minor, of what a job may open."""

_syscall: Any = ctypes.CDLL(None).syscall
_prctl: Any = ctypes.CDLL(None).prctl
_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}.get(os.uname().machine, -1)
# linux/bpf.h: commands, the program's type, where it is attached, and that other programs there stay in force.
_LOAD, _ATTACH, _DETACH, _BY_ID, _INFO, _QUERY = 5, 8, 9, 13, 15, 16
_CGROUP_DEVICE_PROGRAM, _CGROUP_DEVICE, _ALLOW_MULTI = 15, 6, 2
_JOB, _LOGIN = b"gpud_job", b"gpud_login"
# linux/landlock.h, and PR_SET_NO_NEW_PRIVS of linux/prctl.h.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITE_FILE, _READ_FILE, _REFER, _VERSION, _PATH_BENEATH = 1 << 1, 1 << 2, 1 << 13, 1, 1
_NO_NEW_PRIVS = 38


def program(devices: Devices) -> bytes:
    """Return the BPF program that refuses every GPU but these, and those MIG instances of theirs.

    Its context is `struct bpf_cgroup_dev_ctx`: access and type, major, minor. It returns 1 to allow.
    """
    majors = dict.fromkeys([NVIDIA, *(major for major, _ in devices)])
    checks = {major: [minor for own, minor in devices if own == major] for major in majors}
    # Each check is a comparison of the major, one for each minor, one for minors of all GPUs, and two that refuse.
    left = sum(4 + len(minors) for minors in checks.values())
    code = [
        _instruction(0x61, 2, 1, 0),  # r2 = *(u32 *)(r1 + 0)
        _instruction(0x54, 2, imm=0xFFFF),  # w2 &= 0xffff
        _instruction(0x61, 3, 1, 4),
        _instruction(0x61, 4, 1, 8),
        _instruction(0x55, 2, off=left, imm=2),  # if r2 != BPF_DEVCG_DEV_CHAR goto allow
    ]
    for major, minors in checks.items():
        code.append(_instruction(0x55, 3, off=len(minors) + 3, imm=major))  # if r3 != major goto the next check
        left -= 1
        for minor in minors:
            left -= 1
            code.append(_instruction(0x15, 4, off=left, imm=minor))  # if r4 == minor goto allow
        left -= 1
        code.append(_instruction(0x35, 4, off=left, imm=_ALL_GPUS if major == NVIDIA else 0x7FFFFFFF))  # if r4 >= ...
        code += [_instruction(0xB7, 0, imm=0), _instruction(0x95)]  # r0 = 0; exit
        left -= 2
    return b"".join([*code, _instruction(0xB7, 0, imm=1), _instruction(0x95)])


def confine(group: str | None, devices: Devices | None) -> None:
    """Put the fence on a job's cgroup. Raises CannotStartError: a job that shall be fenced does not run without."""
    if devices is None:
        raise faults.CannotStartError("the fence cannot be had: its GPUs' device numbers are not known", machine=True)
    if group is None:
        raise faults.CannotStartError("the fence cannot be had: gpud may make no cgroups", machine=True)
    loaded = _load(program(devices), _JOB)
    try:
        attached = loaded >= 0 and _attach(group, loaded)
    finally:
        if loaded >= 0:
            os.close(loaded)
    if not attached:
        raise faults.CannotStartError("the fence cannot be had: the kernel refuses its BPF program", machine=True)


def lacking(group: str | None) -> str | None:
    """Return why jobs cannot have the `devices` fence here, found out by trying; None where they can.

    `group` is the directory below which jobs have cgroups of their own.
    """
    if group is None:
        return "gpud may make no cgroups (version 2) here"
    trial = f"{group}/fence-{os.getpid()}"
    try:
        os.mkdir(trial)
    except OSError as error:
        return f"no cgroup can be made: {error.strerror}"
    try:
        confine(trial, ())
    except faults.CannotStartError:
        return "the kernel refuses BPF programs on cgroups" if os.geteuid() == 0 else "only root may load its program"
    finally:
        os.rmdir(trial)
    return None


def fence_logins(mount: str, *, on: bool) -> str | None:
    """Fence every GPU off from all that logins start, or no more. Return why that is not so; None where it is.

    `mount` is where cgroups (version 2) are mounted. The program is on systemd's slice of all users; jobs, and
    services, are in another.
    """
    try:
        group = os.open(f"{mount}/user.slice", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return "systemd keeps no user.slice here" if on else None
    try:
        there = _ours(group)
        if on and not there:
            loaded = _load(program(()), _LOGIN)
            if loaded < 0:
                return "the kernel refuses its BPF program"
            there.append(loaded)
            if not _attach(f"{mount}/user.slice", loaded):
                return "the kernel refuses it on user.slice"
        elif not on:
            for each in there:
                _bpf(_DETACH, struct.pack("=III", group, each, _CGROUP_DEVICE))
        for each in there:
            os.close(each)
    finally:
        os.close(group)
    return None


def landlock(devices: Devices | None, directory: str = "/dev") -> None:
    """Keep this process, and all that come of it, from opening other GPUs' nodes. Raises CannotStartError.

    A rule allows what is below a path, so there is one for each place but those nodes. Nothing but opening files is
    restricted; renaming is named because every ruleset forbids it between directories unless it is allowed.
    """
    if devices is None:
        raise faults.CannotStartError("the fence cannot be had: its GPUs' device numbers are not known", machine=True)
    if _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION) < 2:
        raise faults.CannotStartError("the fence cannot be had: Landlock (ABI 2) is not in this kernel", machine=True)
    handled = ctypes.create_string_buffer(struct.pack("=Q", _WRITE_FILE | _READ_FILE | _REFER), 8)
    rules = _syscall(_CREATE_RULESET, handled, ctypes.c_size_t(8), 0)
    try:
        _allow(rules, "/", _REFER)
        for place in _open_to(devices, directory):
            _allow(rules, place, _WRITE_FILE | _READ_FILE)
        if os.geteuid() != 0:  # who may make rulesets of others' programs need not give setuid programs up
            _prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
        refused = _syscall(_RESTRICT_SELF, rules, 0)
    finally:
        if rules >= 0:
            os.close(rules)
    if refused:
        raise faults.CannotStartError("the fence cannot be had: the kernel refuses its Landlock rules", machine=True)


def _open_to(devices: Devices, directory: str) -> list[str]:
    """Return places that hold everything but the nodes of other GPUs."""
    majors = {NVIDIA, *(major for major, _ in devices)}
    allowed = {(major, minor) for major, minor in devices}
    places = [f"/{name}" for name in os.listdir("/") if f"/{name}" != directory]
    folders = [directory]
    for folder in folders:  # grows while it is walked
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            about = os.lstat(path)
            major, minor = os.major(about.st_rdev), os.minor(about.st_rdev)
            everybodys = major not in majors or (major == NVIDIA and minor >= _ALL_GPUS)
            if stat.S_ISDIR(about.st_mode) and name.startswith("nvidia"):  # /dev/nvidia-caps
                folders.append(path)
            elif not stat.S_ISCHR(about.st_mode) or everybodys or (major, minor) in allowed:
                places.append(path)
    return places


def _allow(rules: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # it has gone
    rule = ctypes.create_string_buffer(struct.pack("=Qi", access, place), 12)
    _syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0)  # refused for a symbolic link: what it leads to has its own
    os.close(place)


def _instruction(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """Return a `struct bpf_insn`, for a machine whose least byte comes first, as every one with such GPUs has it."""
    return struct.pack("=BBhi", code, src << 4 | dst, off, imm)


def _load(code: bytes, name: bytes) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    places = (ctypes.addressof(instructions), ctypes.addressof(license_))
    return _bpf(
        _LOAD, struct.pack("=IIQQIIQII16s", _CGROUP_DEVICE_PROGRAM, len(code) // 8, *places, 0, 0, 0, 0, 0, name)
    )


def _attach(group: str, loaded: int) -> bool:
    try:
        directory = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _bpf(_ATTACH, struct.pack("=IIII", directory, loaded, _CGROUP_DEVICE, _ALLOW_MULTI)) == 0
    finally:
        os.close(directory)


def _ours(group: int) -> list[int]:
    """Return our programs on the slice of all users, opened."""
    ids = ctypes.create_string_buffer(4 * 64)
    query = ctypes.create_string_buffer(
        struct.pack("=IIIIQIIQ", group, _CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), 64, 0, 0), 40
    )
    found = []
    if _syscall(_BPF, _QUERY, query, 40) == 0:
        count = struct.unpack_from("=I", query, 24)[0]
        for number in struct.unpack_from(f"={count}I", ids):
            opened = _bpf(_BY_ID, struct.pack("=III", number, 0, 0))
            if opened < 0:
                continue  # it has gone
            about = ctypes.create_string_buffer(80)  # struct bpf_prog_info as far as the name, which is at 64
            told = _bpf(_INFO, struct.pack("=IIQ", opened, 80, ctypes.addressof(about)))
            if told == 0 and about.raw[64:80].rstrip(b"\0") == _LOGIN:
                found.append(opened)
            else:
                os.close(opened)
    return found


def _bpf(command: int, attributes: bytes) -> int:
    return int(_syscall(_BPF, command, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes)))
