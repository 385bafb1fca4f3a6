"""Functions called in jobs: `Client.map`, and the executor."""

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from gpud_process import ROOT, until

from gpuctl import Client, GpuctlError, JobError
from gpuctl.python.calling import RemoteTraceback, pickled


@pytest.fixture
def client(ours):  # noqa: ARG001 - it says where the client finds its gpud
    with Client() as client:
        yield client


class OddError(Exception):
    def __init__(self, one, two):  # pickle calls it with the message alone
        super().__init__(f"{one} and {two}")


def triple(number):
    if number == 3:
        raise ValueError("three is too many")
    if number == 4:
        raise OddError("one", "two")
    return number * 3


def waits_for(path):
    until(Path(path).exists)
    return path


def test_a_map_is_one_array_whose_results_come_in_order(client):
    factor = 10

    assert client.map(lambda number: number * factor, range(5), gpus=1, at_once=2, name="tens") == [0, 10, 20, 30, 40]

    (array,) = {job.id.partition("_")[0] for job in client.jobs(name="tens")}
    assert client.job(array).row["array_counts"] == {"completed": 5}
    assert client.map(triple, []) == []


def test_a_call_has_its_gpu_its_options_and_this_directory(client, shared):
    def seen(name):
        return os.environ[name], Path.cwd(), Path(os.environ["FOLDER"]).stat().st_mode & 0o777

    folder = str(shared.state / "calls")
    [(gpus, where, mode)] = client.map(seen, ["GPUD_GPU_COUNT"], gpus=2, env={"FOLDER": folder})

    assert (gpus, where, mode) == ("2", Path.cwd(), 0o700)


def test_what_a_call_raises_is_raised_here_with_its_traceback(client):
    with pytest.raises(ValueError, match="three") as raised:
        client.map(triple, [1, 3, 2], gpus=0)

    assert isinstance(raised.value.__cause__, RemoteTraceback)
    assert "in triple" in str(raised.value.__cause__)


def test_exceptions_are_returned_where_that_is_wanted(client):
    one, three, four = client.map(triple, [1, 3, 4], gpus=0, return_exceptions=True)

    assert (one, repr(three)) == (3, "ValueError('three is too many')")
    assert isinstance(four, JobError)
    assert "OddError: one and two" in str(four)
    assert "in triple" in str(four.__cause__)


def test_the_first_failure_cancels_what_has_not_begun_and_leaves_alone_what_runs(client, tmp_path):
    began, over = str(tmp_path / "began"), str(tmp_path / "over")
    ends = tmp_path / "ends"

    def fails_first(number):
        if number == 0:
            until(Path(began).exists, 60)
            raise KeyError(number)
        Path(began).touch()
        until(Path(over).exists, 60)

    def let_it_end():
        with Client() as other:
            array = until(lambda: other.jobs(name="rest", all=True))[0].id.partition("_")[0]
            until(lambda: (other.job(array).row["array_counts"] or {}).get("cancelled"))
            ends.write_text(array)
            Path(over).touch()

    threading.Thread(target=let_it_end, daemon=True).start()
    with pytest.raises(KeyError):
        client.map(fails_first, range(6), gpus=0, at_once=2, name="rest")

    counts = client.job(ends.read_text()).row["array_counts"]
    assert counts["completed"] in (1, 2)  # one more may begin before the failure is known
    assert counts == {"completed": counts["completed"], "failed": 1, "cancelled": 5 - counts["completed"]}


@pytest.mark.parametrize("option", [{"array": "0-3"}, {"key": "k", "group": "g"}])
def test_what_a_call_cannot_have_is_refused(client, option):
    with pytest.raises(TypeError, match=next(iter(option))):
        client.map(abs, [1], gpus=0, **option)
    with pytest.raises(TypeError, match=next(iter(option))):
        client.executor(gpus=0, **option)


def test_a_map_that_takes_too_long_is_cancelled(client):
    with pytest.raises(TimeoutError):
        client.map(time.sleep, [1000], gpus=0, timeout=0.1, name="slow")

    assert client.wait(client.jobs(name="slow"), 30)[0].state == "cancelled"


def test_a_map_in_a_group_that_fails_says_that_it_is_held(client, capsys):
    def maps():
        return client.map(os._exit, [3] * 8, gpus=0, at_once=1, group="fails", return_exceptions=True, timeout=60)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        mapped = pool.submit(maps)
        until(lambda: "is held: group fails had 3 failures in a row" in capsys.readouterr().err)
        with Client() as other:
            other.cancel(group="fails")
        assert len(mapped.result(30)) == 8


def test_a_call_that_is_killed_names_its_job_and_its_log(client):
    def dies(number):
        os.write(1, b"last words\n")
        os.kill(os.getpid(), number)

    (died,) = client.map(dies, [signal.SIGKILL], gpus=0, return_exceptions=True)

    assert isinstance(died, JobError)
    assert died.job.endswith("_0")
    assert "SIGKILL" in died.message
    assert Path(died.log).read_text() == "last words\n"


def test_a_retry_has_the_last_word(client):
    def second_time(path):
        if not Path(path).exists():
            Path(path).touch()
            raise RuntimeError(path)
        return "better"

    [found] = client.map(second_time, [str(Path.cwd() / "tried")], gpus=0, retries=1)

    assert found == "better"


def test_an_executor_keeps_the_standard_protocol(client):
    with client.executor(gpus=0, name="calls") as executor:
        one = executor.submit(triple, number=2)
        bad = executor.submit(triple, 3)
        done, left = concurrent.futures.wait([one, bad], 30)

        assert (done, left) == ({one, bad}, set())
        assert one.result() == 6
        with pytest.raises(ValueError, match="three"):
            bad.result()
        assert list(executor.map(triple, [5, 6], timeout=30)) == [15, 18]
        assert isinstance(executor, concurrent.futures.Executor)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(triple, 1)


def test_a_future_is_cancelled_before_its_start_and_not_after(client):
    with client.executor(gpus=2) as executor:
        go = str(Path.cwd() / "go-on")
        first = executor.submit(waits_for, go)
        second = executor.submit(triple, 1)
        until(first.running)

        assert (first.cancel(), second.cancel(), second.cancel()) == (False, True, True)
        Path(go).touch()
        assert first.result(30) == go
        with pytest.raises(concurrent.futures.CancelledError):
            second.result()
    assert (first.job.refresh().state, second.job.refresh().state) == ("completed", "cancelled")


def test_shutdown_may_cancel_what_waits_and_waits_for_what_runs(client):
    executor = client.executor(gpus=2)
    go = str(Path.cwd() / "go-down")
    running, waiting = executor.submit(waits_for, go), executor.submit(triple, 1)
    until(running.running)

    executor.shutdown(wait=False, cancel_futures=True)
    down = threading.Thread(target=executor.shutdown)
    down.start()
    assert (waiting.cancelled(), running.done()) == (True, False)
    Path(go).touch()
    down.join(30)

    assert running.result(0) == go


def test_an_interrupted_program_cancels_its_calls_those_that_run_too(client):
    with contextlib.suppress(KeyboardInterrupt), client.executor(gpus=2) as executor:
        running, waiting = executor.submit(time.sleep, 1000), executor.submit(time.sleep, 1000)
        until(running.running)
        raise KeyboardInterrupt
    assert [future.job.refresh().state for future in (running, waiting)] == ["cancelled", "cancelled"]
    assert isinstance(running.exception(0), JobError)


def test_a_job_that_somebody_cancels_or_that_leaves_gives_an_exception(client):
    with client.executor(gpus=0) as executor:
        running = executor.submit(time.sleep, 1000)
        leaves = executor.submit(sys.exit)
        until(running.running)
        running.job.cancel()

        assert isinstance(running.exception(30), JobError)
        assert running.exception().message == f"job {running.job.id} cancelled: killed by SIGTERM"
        assert "left without a result" in leaves.exception(30).message


PROGRAM = """
import sys
sys.modules["cloudpickle"] = None
from gpuctl import Client, GpuctlError
def mine(number): return number
with Client() as client:
    import math
    print(client.map(math.sqrt, [4], gpus=0))
    for fn, item in ((mine, 1), (lambda number: number, 1), (math.sqrt, mine)):
        try:
            client.map(fn, [item], gpus=0)
        except GpuctlError as error:
            print(error.hint)
"""


@pytest.mark.usefixtures("ours")
def test_without_cloudpickle_what_a_job_can_import_is_called_and_the_rest_names_the_extra(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environ = os.environ | {"PYTHONPATH": str(ROOT)}

    said = subprocess.run([sys.executable, program], env=environ, check=True, capture_output=True, text=True).stdout

    first, *hints = said.splitlines()
    assert first == "[2.0]"
    assert len(hints) == 3
    assert all("pip install 'gpud[python]'" in hint for hint in hints)


def test_what_cannot_be_pickled_is_refused_before_anything_is_queued(client):
    before = len(client.jobs(all=True))

    with pytest.raises(GpuctlError, match="cannot be sent"):
        client.map(triple, [threading.Lock()])

    assert len(client.jobs(all=True)) == before
    assert pickled(triple)
