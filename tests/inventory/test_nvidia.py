"""NVIDIA's GPUs, through the real nvidia-ml-py and a real shared library that a file steers."""

import os
import pwd
import queue
import secrets
import signal
import socket
import subprocess
import sys
import time

import pytest
from fakenvml.fixture import fake_gpu, fake_uuid
from inventory.looking import DEADLINE_S

from gpud.model.gpu import Reading, Unreadable
from gpud.model.observations import NodeSeen

ERROR_NOT_SUPPORTED, ERROR_NO_PERMISSION, ERROR_RESET_REQUIRED, ERROR_MISMATCH, ERROR_UNKNOWN = 3, 4, 16, 18, 999
ZERO, ONE, TWO, THREE = (fake_uuid(index) for index in range(4))


def readable(reading):
    return isinstance(reading, Reading)


def test_the_node_comes_first_with_its_gpus_as_the_driver_says_then_a_reading_of_each(fake_nvml, looking):
    h100 = fake_gpu(1, "name NVIDIA H100 80GB HBM3", total_mib=81559, pci="00000000:61:00.0")
    fake_nvml.write(
        "driver 535.261.03", fake_gpu(0, used_mib=500, utilization=93, temperature=61, power_mw=301500), h100
    )
    seen = looking()

    first, *readings = [seen.next() for _ in range(3)]

    assert isinstance(first, NodeSeen)
    assert (first.node.name, first.node.driver, first.node.problem) == ("here", "535.261.03", None)
    assert first.node.cpus == len(os.sched_getaffinity(0))
    gpu = first.node.gpus[1]
    assert (gpu.id, gpu.index, gpu.name) == (ONE, 1, "NVIDIA H100 80GB HBM3")
    assert (gpu.memory_total_mib, gpu.pci_id, gpu.simulated) == (81559, "00000000:61:00.0", False)
    busy = {one.gpu: one.reading for one in readings}[ZERO]
    assert (busy.memory_used_mib, busy.utilization_percent, busy.temperature_c, busy.power_w) == (500, 93, 61, 301.5)
    assert busy.processes == ()
    assert busy.lease is None


def test_a_look_sees_what_is_there_now(fake_nvml, looking):
    seen = looking().settled()

    for used in (1_000, 2_000, 3_000):
        fake_nvml.write(fake_gpu(0, used_mib=used), fake_gpu(1))
        assert seen.look(ZERO).memory_used_mib == used


def test_a_request_during_a_look_is_answered_by_a_later_look_and_shared_with_others(fake_nvml, looking):
    seen = looking().settled()
    log = fake_nvml.config.with_suffix(".log")
    slow = ("log " + str(log), "delay nvmlDeviceGetPowerUsage 300")
    fake_nvml.write(*slow, fake_gpu(0), fake_gpu(1))

    seen.inventory.read([ZERO])
    asked = time.monotonic()
    for _ in range(50):
        seen.inventory.read([ZERO])
    first, second = seen.reading(), seen.reading()

    assert first.at < asked + 0.3 <= second.at
    assert log.read_text().split().count("nvmlDeviceGetPowerUsage") == 2


def test_a_part_of_the_machine_can_be_managed(fake_nvml, looking):
    fake_nvml.write(*(fake_gpu(index) for index in range(4)))

    assert [gpu.index for gpu in looking(only=[1, 3]).node().gpus] == [1, 3]
    node = looking(only=[3, 4]).node()
    assert [gpu.index for gpu in node.gpus] == [3]
    assert node.problem == "gpus names GPU 4, and there are 4"


@pytest.mark.parametrize("code", [ERROR_NOT_SUPPORTED, ERROR_NO_PERMISSION])
@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("nvmlDeviceGetUtilizationRates", "utilization_percent"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetPowerUsage", "power_w"),
        ("nvmlDeviceGetComputeRunningProcesses_v3", "processes"),
    ],
)
def test_what_a_board_does_not_tell_is_unknown_and_the_rest_is_told(fake_nvml, looking, call, what, code):
    fake_nvml.write(fake_gpu(0, f"error {call} {code}", used_mib=77))

    reading = looking().reading()

    assert getattr(reading, what) is None
    assert reading.memory_used_mib == 77
    details = ("utilization_percent", "temperature_c", "power_w", "processes")
    assert [name for name in details if getattr(reading, name) is None] == [what]


def test_a_detail_that_fails_for_good_makes_no_gpu_useless_but_memory_does(fake_nvml, looking):
    fake_nvml.write(
        fake_gpu(0, f"error nvmlDeviceGetPowerUsage {ERROR_UNKNOWN}"),
        fake_gpu(1, f"error nvmlDeviceGetMemoryInfo_v2 {ERROR_UNKNOWN}"),
        fake_gpu(2, f"error nvmlDeviceGetMemoryInfo_v2 {ERROR_RESET_REQUIRED}"),
        fake_gpu(3),
    )
    seen = looking()

    node = seen.node()
    assert [gpu.index for gpu in node.gpus] == [0, 3]
    assert "GPU 1 cannot be identified" in node.problem
    assert "needs a reset" in node.problem
    assert readable(seen.reading(ZERO))
    fake_nvml.write(
        fake_gpu(0, f"error nvmlDeviceGetMemoryInfo_v2 {ERROR_RESET_REQUIRED}"), fake_gpu(1), fake_gpu(2), fake_gpu(3)
    )
    assert seen.look().reset


def test_a_gpu_without_memory_of_its_own_has_the_machines(fake_nvml, looking):
    fake_nvml.write(fake_gpu(0, f"error nvmlDeviceGetMemoryInfo_v2 {ERROR_NOT_SUPPORTED}", "name NVIDIA GB10"))
    seen = looking()

    node = seen.node()

    assert node.gpus[0].memory_total_mib == node.memory_mib > 0
    assert seen.reading().memory_used_mib is None


def test_the_gpus_of_an_older_driver_are_read_by_its_older_calls(old_nvml, looking, sleeper):
    mine = fake_gpu(
        0, used_mib=900, temperature=50, processes=[f"process {sleeper.pid} - compute", "process 1 50 graphics"]
    )
    old_nvml.write("driver 450.248.02", mine)
    seen = looking()

    assert seen.node().driver == "450.248.02"
    reading = seen.reading()
    assert (reading.memory_used_mib, reading.temperature_c) == (900, 50)
    told = [(process.pid, process.memory_mib) for process in reading.processes]
    assert told == [(1, 50), (sleeper.pid, None)]


def test_a_driver_that_answers_of_the_newest_list_that_there_is_none_is_asked_for_the_one_before(fake_nvml, looking):
    calls = [f"error nvmlDeviceGet{kind}RunningProcesses_v3 13" for kind in ("Compute", "Graphics", "MPSCompute")]
    fake_nvml.write(fake_gpu(0, *calls, "process 1 50 compute"))
    seen = looking()
    assert [process.pid for process in seen.reading().processes] == [1]


def test_a_process_is_told_with_its_owner_and_its_line_of_parents(fake_nvml, looking, sleeper):
    listed = [f"process {sleeper.pid} 4000 compute", f"process {os.getpid()} - graphics"]
    fake_nvml.write(fake_gpu(0, processes=listed))

    found = {process.pid: process for process in looking().reading().processes}

    ours = found[sleeper.pid]
    assert (ours.kind, ours.memory_mib) == ("compute", 4000)
    assert ours.command.endswith("import signal; signal.pause()")
    assert ours.user == found[os.getpid()].user
    assert [ancestor.pid for ancestor in ours.ancestors[:2]] == [sleeper.pid, os.getpid()]
    assert ours.ancestors[1:] == found[os.getpid()].ancestors
    assert (found[os.getpid()].kind, found[os.getpid()].memory_mib) == ("graphics", None)


def test_the_library_can_list_processes_for_as_long_as_they_live(fake_nvml, looking, sleeper, tmp_path):
    (tmp_path / "pids").mkdir()
    (tmp_path / "pids" / str(sleeper.pid)).write_text("700 compute\n")
    fake_nvml.write(fake_gpu(0, f"pids {tmp_path / 'pids'}"), fake_gpu(1, f"live {sleeper.pid} 600 compute"))
    seen = looking()
    listed = [(process.pid, process.memory_mib) for gpu in (ZERO, ONE) for process in seen.look(gpu).processes]
    assert listed == [(sleeper.pid, 700), (sleeper.pid, 600)]

    sleeper.kill()
    sleeper.wait()

    assert seen.look(ZERO).processes == seen.look(ONE).processes == ()


def test_a_process_that_computes_and_draws_is_one_that_computes(fake_nvml, looking, sleeper):
    kinds = [f"process {sleeper.pid} 10 {kind}" for kind in ("compute", "graphics", "mps")]
    fake_nvml.write(fake_gpu(0, processes=kinds), fake_gpu(1, processes=kinds[1:]))
    seen = looking()

    assert [process.kind for process in seen.reading(ZERO).processes] == ["compute"]
    assert [process.kind for process in seen.look(ONE).processes] == ["compute"]


def test_a_lost_gpu_is_lost_keeps_its_place_and_comes_back(fake_nvml, looking):
    seen = looking().settled()
    fake_nvml.write(fake_gpu(0, "lost"), fake_gpu(1))

    lost = seen.look(ZERO)
    assert isinstance(lost, Unreadable)
    assert lost.lost
    assert "lost" in lost.reason
    assert readable(seen.look(ONE))

    fake_nvml.write(fake_gpu(0), fake_gpu(1))
    assert seen.reading(ZERO, readable).memory_used_mib == 4  # looked for by itself


def test_a_gpu_that_is_gone_is_gone_from_the_node_and_one_that_was_added_is_taken_up(fake_nvml, looking):
    seen = looking()
    assert len(seen.node().gpus) == 2

    fake_nvml.write(fake_gpu(1))  # perhaps while they are asked who they are: then one stays until they are asked again
    assert [gpu.id for gpu in seen.node(lambda node: len(node.gpus) == 1).gpus] == [ONE]
    assert seen.look(ZERO).lost

    fake_nvml.write(fake_gpu(0), fake_gpu(1), fake_gpu(2))
    assert [gpu.id for gpu in seen.node(lambda node: len(node.gpus) == 3).gpus] == [ZERO, ONE, TWO]
    assert readable(seen.reading(TWO))


def test_a_gpu_that_was_there_is_looked_for_sooner_than_a_new_one(fake_nvml, looking):
    seen = looking(rescan_s=600.0, deadline_s=1.0).settled()
    fake_nvml.write(fake_gpu(0, "lost"), fake_gpu(1))
    assert seen.look(ZERO).lost
    fake_nvml.write(fake_gpu(0), fake_gpu(1))
    assert readable(seen.reading(ZERO, readable))

    fake_nvml.write(fake_gpu(1))
    seen.inventory.read([ZERO])
    assert [gpu.id for gpu in seen.node().gpus] == [ONE]
    fake_nvml.write(fake_gpu(0), fake_gpu(1))
    assert [gpu.id for gpu in seen.node().gpus] == [ZERO, ONE]


def test_a_gpu_that_does_not_say_who_it_is_while_others_get_its_number_is_not_gone(fake_nvml, looking):
    seen = looking(deadline_s=0.2).settled()
    fake_nvml.write(fake_gpu(1, "delay nvmlDeviceGetUUID 600000"), fake_gpu(0), fake_gpu(2))
    assert {gpu.id for gpu in seen.node(lambda node: len(node.gpus) != 2).gpus} == {ZERO, ONE, TWO}


def test_a_gpu_that_was_lost_before_the_start_is_named_and_taken_up_when_it_is_back(fake_nvml, looking):
    fake_nvml.write(fake_gpu(0), fake_gpu(1, "lost"))
    seen = looking(rescan_s=600.0, deadline_s=0.2)  # it is asked for sooner than for a new one

    node = seen.node(lambda node: node.gpus)
    assert [gpu.index for gpu in node.gpus] == [0]
    assert "GPU 1 cannot be identified" in node.problem
    assert not node.silent

    fake_nvml.write(fake_gpu(0), fake_gpu(1))
    node = seen.node()
    assert [gpu.index for gpu in node.gpus] == [0, 1]
    assert node.problem is None


def test_a_gpu_that_we_may_not_use_is_none_of_ours(fake_nvml, looking):
    fake_nvml.write(fake_gpu(0, f"error nvmlDeviceGetHandleByIndex_v2 {ERROR_NO_PERMISSION}"), fake_gpu(1))

    seen = looking()
    node = seen.node()

    assert [gpu.id for gpu in node.gpus] == [ONE]
    assert node.problem is None
    fake_nvml.write(f"error nvmlDeviceGetHandleByIndex_v2 {ERROR_NO_PERMISSION}", fake_gpu(0), fake_gpu(1))
    assert "may not use it" in seen.look(ONE).reason
    fake_nvml.write(fake_gpu(0), fake_gpu(1))
    assert [gpu.id for gpu in seen.node().gpus] == [ZERO, ONE]  # and that one was never gone

    fake_nvml.write(f"error nvmlDeviceGetHandleByIndex_v2 {ERROR_NO_PERMISSION}", fake_gpu(0), fake_gpu(1))
    assert "this user may use none of 2" in looking().node().problem


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("error nvmlInitWithFlags 9", "kernel module is not loaded"),
        (f"error nvmlInitWithFlags {ERROR_MISMATCH}", "reboot"),
        (f"error nvmlInitWithFlags {ERROR_NO_PERMISSION}", "/dev/nvidiactl"),
        (f"error nvmlInitWithFlags {ERROR_UNKNOWN}", "Unknown Error"),
        ("", "has no GPU"),
    ],
)
def test_without_a_driver_the_node_says_why_and_the_gpus_come_when_it_does(fake_nvml, looking, line, words):
    fake_nvml.write(line)
    seen = looking()

    node = seen.node()
    assert words in node.problem
    assert node.gpus == ()
    assert node.cpus > 0

    fake_nvml.write(fake_gpu(0))
    node = seen.node()
    assert node.problem is None
    assert [gpu.id for gpu in node.gpus] == [ZERO]
    assert readable(seen.reading())


def test_a_gpu_whose_number_is_another_s_by_now_gives_no_reading_until_it_has_its_own(fake_nvml, looking):
    seen = looking(rescan_s=600.0).settled()

    fake_nvml.write(fake_gpu(1), fake_gpu(0))
    assert "numbered its GPUs anew" in seen.look(ZERO).reason

    assert [(gpu.index, gpu.id) for gpu in seen.node().gpus] == [(0, ONE), (1, ZERO)]
    assert readable(seen.reading(ZERO))


def test_gpus_of_one_uuid_or_of_none_are_named_and_taken_up_when_they_have_their_own(fake_nvml, looking):
    fake_nvml.write(fake_gpu(0), fake_gpu(0), fake_gpu(1).replace(ONE, ""), fake_gpu(2))
    node = looking().node()
    assert [gpu.index for gpu in node.gpus] == [0, 3]
    assert f"GPU 1 has the UUID of another: {ZERO}; GPU 2 cannot be identified" in node.problem


def test_what_cannot_be_is_not_taken_for_a_value(fake_nvml, looking):
    nothing = 2**32 - 1  # all bits set
    fake_nvml.write(
        fake_gpu(0, total_mib=1000, used_mib=1001, utilization=101, temperature=nothing, power_mw=nothing),
        fake_gpu(1, total_mib=0),
    )
    seen = looking()

    assert seen.node().gpus[1].memory_total_mib == 0
    reading = seen.reading()
    told = (reading.memory_used_mib, reading.utilization_percent, reading.temperature_c, reading.power_w)
    assert told == (None, None, None, None)
    fake_nvml.write(fake_gpu(0), fake_gpu(1))
    assert seen.node(lambda node: all(gpu.memory_total_mib for gpu in node.gpus))


def test_a_driver_that_answers_what_nobody_can_read_is_asked_again(fake_nvml, looking):
    fake_nvml.config.write_bytes(b"driver \xff\n" + fake_gpu(0).encode())
    seen = looking()
    assert "makes no sense" in seen.node().problem

    fake_nvml.write(fake_gpu(0))
    seen.settled()
    fake_nvml.config.write_bytes(b"driver \xff\n" + fake_gpu(0).encode())
    seen.inventory.read([ZERO])
    assert "makes no sense" in seen.reading(wanted=lambda reading: not readable(reading)).reason


def test_a_library_that_is_installed_later_is_taken_up(fake_nvml, looking, tmp_path):
    later = tmp_path / "libnvidia-ml.so.1"
    seen = looking(library=str(later))
    assert str(later) in seen.node().problem

    later.symlink_to(fake_nvml.library)

    assert len(seen.node().gpus) == 2


def test_a_driver_that_goes_away_takes_its_gpus_along_and_brings_them_back(fake_nvml, looking):
    seen = looking()
    assert len(seen.node().gpus) == 2

    fake_nvml.write("error nvmlDeviceGetCount_v2 9", "error nvmlInitWithFlags 9", fake_gpu(0))
    node = seen.node()
    assert node.gpus == ()
    assert "not loaded" in node.problem
    assert "not loaded" in seen.look(ZERO).reason

    fake_nvml.write(fake_gpu(0))
    assert len(seen.node().gpus) == 1


def test_a_package_that_hides_the_binding_is_named(looking, tmp_path, monkeypatch):
    (tmp_path / "pynvml").mkdir()
    (tmp_path / "pynvml" / "__init__.py").write_text("def nvmlInit(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert "pip uninstall pynvml" in looking().node().problem


def test_a_call_that_hangs_costs_one_gpu_only_and_that_one_recovers(fake_nvml, looking):
    seen = looking(deadline_s=1.0).settled()
    fake_nvml.write(fake_gpu(0, "delay nvmlDeviceGetMemoryInfo_v2 600000"), fake_gpu(1))

    began = time.monotonic()
    silent = seen.look(ZERO)
    assert time.monotonic() - began >= 1.0
    assert isinstance(silent, Unreadable)
    assert "not answering" in silent.reason
    assert not silent.lost
    assert readable(seen.look(ONE))
    assert "not answering" in seen.look(ZERO).reason  # every later request is answered at once

    fake_nvml.write(fake_gpu(0, used_mib=55), fake_gpu(1))
    assert seen.reading(ZERO, readable).memory_used_mib == 55


def test_a_driver_that_hangs_at_the_start_is_said_to_and_taken_up_when_it_answers(fake_nvml, looking):
    fake_nvml.write("delay nvmlInitWithFlags 600000", fake_gpu(0))
    seen = looking(deadline_s=1.0)

    node = seen.node()
    assert node.gpus == ()
    assert "does not answer" in node.problem
    assert node.silent

    fake_nvml.write(fake_gpu(0))
    node = seen.node()
    assert (len(node.gpus), node.silent) == (1, False)


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo_v2"])
def test_a_gpu_that_hangs_at_the_start_costs_itself_only_and_is_taken_up_when_it_answers(fake_nvml, looking, call):
    fake_nvml.write(fake_gpu(0), fake_gpu(1, f"delay {call} 600000"), fake_gpu(2))
    seen = looking(deadline_s=1.0)

    node = seen.node()
    assert [gpu.id for gpu in node.gpus] == [ZERO, TWO]
    assert node.problem.startswith("GPU 1 is not answering")
    assert readable(seen.reading(TWO))
    silent = seen.look(ONE)
    assert "GPU 1 is not answering" in silent.reason
    assert not silent.lost
    assert node.silent

    fake_nvml.write(fake_gpu(0), fake_gpu(1), fake_gpu(2), fake_gpu(3))
    while THREE not in [gpu.id for gpu in node.gpus] or node.problem is not None:
        node = seen.node()
    assert [gpu.id for gpu in node.gpus] == [ZERO, ONE, TWO, THREE]
    assert not node.silent
    assert readable(seen.reading(ONE))


def test_a_gpu_that_answers_late_is_taken_up_at_once_and_no_sooner_asked_again(fake_nvml, looking, tmp_path):
    log = tmp_path / "calls"
    fake_nvml.write(f"log {log}", fake_gpu(0), fake_gpu(1, "delay nvmlDeviceGetUUID 600000"))
    seen = looking(deadline_s=0.5, rescan_s=600.0)
    assert [gpu.id for gpu in seen.node().gpus] == [ZERO]
    assert log.read_text().split().count("nvmlDeviceGetMinorNumber") == 2  # which looks do not ask for

    fake_nvml.write(f"log {log}", fake_gpu(0), fake_gpu(1))
    node = seen.node()
    assert ([gpu.id for gpu in node.gpus], node.problem) == ([ZERO, ONE], None)


def test_close_returns_at_once_and_the_process_ends_while_a_call_hangs(fake_nvml):
    fake_nvml.write("delay nvmlDeviceGetTemperature 600000", fake_gpu(0))
    program = """if True:
        import queue, sys, time
        from gpud.inventory.nvidia import NvidiaInventory
        inventory = NvidiaInventory(clock=time.monotonic, library=sys.argv[1], deadline_s=0.1)
        seen = queue.SimpleQueue()
        inventory.start(seen.put)
        while "not answering" not in str(seen.get(timeout=20)): pass
        began = time.monotonic()
        inventory.close()
        print("closed" if time.monotonic() - began < 1 else "slow")
    """
    environment = os.environ | fake_nvml.environment
    command = [sys.executable, "-c", program, fake_nvml.library]

    done = subprocess.run(command, env=environment, timeout=60, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr, done.returncode) == ("closed\n", "", 0)


def test_nothing_is_posted_after_close(fake_nvml, looking):
    seen = looking().settled()
    seen.inventory.watch(0.01)
    seen.inventory.close()
    while not seen.seen.empty():
        seen.seen.get()

    seen.inventory.read([ZERO])
    fake_nvml.write(fake_gpu(0))

    with pytest.raises(queue.Empty):
        seen.seen.get(timeout=0.3)


def test_while_somebody_watches_readings_come_by_themselves_else_no_gpu_is_asked_anything(fake_nvml, looking):
    seen = looking().settled()
    seen.inventory.watch(0.01)
    for _ in range(3):
        assert readable(seen.reading(ZERO))
        assert readable(seen.reading(ONE))
    seen.inventory.watch(None)

    log = fake_nvml.config.with_suffix(".log")
    fake_nvml.write(f"log {log}", fake_gpu(0), fake_gpu(1))
    quiet = {"nvmlDeviceGetCount_v2", "nvmlSystemGetDriverVersion", "nvmlEventSetWait_v2"}
    deadline = time.monotonic() + DEADLINE_S
    while not log.exists() or len(calls := log.read_text().split()) < 9 or not quiet.issuperset(calls[-9:]):
        assert time.monotonic() < deadline  # what was under way was over long ago
        time.sleep(0.01)


def test_the_shim_of_any_gpud_that_holds_a_gpu_is_named_for_as_long_as_it_does(looking):
    seen = looking().settled()
    holder = """if True:
        import signal, socket, sys
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\\0gpud/" + sys.argv[1])
        listener.listen(0)
        print(flush=True)
        signal.pause()
    """
    command = [sys.executable, "-c", holder, ZERO]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()

        leases = {seen.look(ZERO).lease for _ in range(20)}  # more often than its backlog has places
        assert [lease.pid for lease in leases] == [process.pid]
        assert leases.pop().start > 0
        assert looking().reading(ZERO).lease.pid == process.pid  # there is no place left to ask; /proc tells
        assert seen.look(ONE).lease is None
        process.kill()
        process.wait()

    assert seen.look(ZERO).lease is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0gpud/{ZERO}")
        listener.listen()
        assert seen.look(ZERO).lease.pid == os.getpid()


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("listens", [True, False])
def test_another_user_who_keeps_a_gpu_without_being_on_it_is_named_like_any_stranger(fake_nvml, looking, listens):
    number = 1000 + secrets.randbelow(60_000)  # names of leases are the whole machine's
    fake_nvml.write(fake_gpu(number))
    nobody = pwd.getpwnam("nobody").pw_uid
    ready, told = os.pipe()
    holder = os.fork()
    if not holder:
        try:
            os.setuid(nobody)
            lease = socket.socket(socket.AF_UNIX)
            lease.bind(f"\0gpud/{fake_uuid(number)}")
            if listens:
                lease.listen()
            os.write(told, b".")
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(ready, 1)
        reading = looking().reading(fake_uuid(number))
        assert reading.lease.pid == holder
        assert [(each.pid, each.uid, each.user) for each in reading.processes] == [(holder, nobody, "nobody")]
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        os.close(ready)
        os.close(told)
