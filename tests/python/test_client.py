"""`from gpuctl import Client`: jobs from Python, and the docstrings' examples, run as they stand."""

import doctest
import inspect
import os
import signal
import threading
from datetime import datetime, timedelta
from pathlib import Path

import click
import pytest
from gpud_process import until

import gpuctl
from gpuctl import Client, GpuctlError, JobError, RefusedError, UnreachableError, api
from gpuctl.client import Client as Connection
from gpuctl.commands.submit import submit
from gpuctl.following.waiting import exit_status, wait_for
from gpuctl.python import wanted


@pytest.fixture
def client(ours):  # noqa: ARG001 - it says where the client finds its gpud
    with Client() as client:
        yield client


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("module", [api], ids=["api"])
def test_the_examples_do_what_they_say(module):
    found = doctest.testmod(module)

    assert found.attempted > 5
    assert found.failed == 0


def test_the_options_are_the_command_lines():
    options = {each.name for each in submit.params if isinstance(each, click.Option) and each.expose_value}

    assert wanted.Options.__annotations__.keys() == options - {"file", "dry_run"}


def test_the_package_is_typed_and_tells_its_names():
    assert (Path(gpuctl.__file__).parent / "py.typed").exists()
    assert all(inspect.isclass(getattr(gpuctl, name)) for name in gpuctl.__all__)


def test_quantities_are_words_numbers_and_pythons_own(client):
    given = {
        "gpus": 0.5,
        "time_limit": timedelta(hours=2),
        "estimate": 90,
        "grace": "5s",
        "begin": datetime.now().astimezone() + timedelta(days=1),
        "priority": -3,
        "label": {"seed": "1", "set": "a=b"},
        "retries": 2,
        "retry_on": ["oom", "exit:75"],
        "preemptible": True,
        "not_gpu": [1],
        "workdir": Path("/"),
    }

    row = client.submit(["true"], **given).row

    assert (row["gpus"], row["time_limit_s"], row["estimate_s"], row["priority"]) == (0.5, 7200, 90, -3)
    assert (row["labels"], {*row["retry_on"]}, row["excluded"][0][-2:]) == (given["label"], {"oom", "exit:75"}, ":1")
    assert (row["preemptible"], row["workdir"], row["state"]) == (True, "/", "queued")
    client.cancel(mine=True, state="queued")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"gpu": 1}, TypeError),
        ({"time_limit": "soon"}, GpuctlError),
        ({"key": "k"}, GpuctlError),
        ({"gpus": 99}, RefusedError),
    ],
)
def test_what_is_wrong_is_said_and_queues_nothing(client, options, error):
    before = len(client.jobs(all=True))

    with pytest.raises(error) as raised:
        client.submit(["true"], **options)

    assert next(iter(options)).split("_")[0][:3] in str(raised.value).lower().replace("99 ", "")
    assert len(client.jobs(all=True)) == before


def test_a_word_that_is_none_is_named(client):
    with pytest.raises(TypeError, match="write '5', not 5"):
        client.submit(["echo", 5], gpus=0)


def test_a_job_has_this_environment_and_directory_and_what_is_added(client, monkeypatch, tmp_path):
    monkeypatch.setenv("HERE", "1")
    monkeypatch.chdir(tmp_path)

    job = client.submit(["sh", "-c", "echo $HERE $ADDED; pwd"], gpus=0, env={"ADDED": "a b"}).wait(check=True)

    assert list(job.logs()) == ["1 a b", str(tmp_path)]


def test_a_word_alone_is_a_script_and_its_copy_runs(client, tmp_path):
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\n#GPUCTL -g 0 --name said\necho as it was\n")

    job = client.submit(script, hold=True)
    script.write_text("#!/bin/sh\nexit 1\n")
    job.release()

    assert job.wait(check=True).name == "said"
    assert list(job.logs()) == ["as it was"]
    with pytest.raises(GpuctlError, match="without a shell") as told:
        client.submit("echo a && echo b")
    assert told.value.hint.startswith("write: client.submit([")


def test_waiting_ends_at_its_timeout_and_check_raises_what_happened(client):
    job = client.submit(["sleep", "1000"], gpus=0)

    with pytest.raises(TimeoutError):
        job.wait(0.05)
    job.cancel(force=True)
    with pytest.raises(JobError, match=f"job {job.id} cancelled") as raised:
        job.wait(check=True)

    assert (raised.value.job, job.ended, job.exit_status) == (job.id, True, 128 + signal.SIGKILL)


def test_a_log_is_followed_from_before_the_start_to_the_end(client):
    job = client.submit(["sh", "-c", "echo one; read go < go; echo $go"], gpus=0, hold=True)
    os.mkfifo("go")
    lines = job.logs(follow=True)
    threading.Timer(0.1, job.release).start()

    assert next(lines) == "one"
    Path("go").write_text("two\n")
    assert list(lines) == ["two"]
    Path("go").unlink()


def test_changes_are_methods_of_a_job_and_of_the_client(client):
    one, two = (client.submit(["sleep", "1000"], gpus=0, hold=True, group="changed") for _ in "12")

    assert client.priority(5, [one, two])["changed"] == [one.id, two.id]
    assert one.update(time_limit="2h", label={"a": "b"})["changed"] == [one.id]
    assert one.refresh().row["labels"] == {"a": "b"}
    assert one.release()["changed"] == [one.id]
    assert one.signal(signal.SIGCONT)["changed"] in ([], [one.id])
    with pytest.raises(TypeError, match=r"client.signal\(10, job\)"):
        client.signal(one, signal.SIGCONT)
    assert [job.id for job in client.jobs(group="changed", state="held")] == [two.id]
    assert set(client.cancel(group="changed")["changed"]) == {one.id, two.id}
    with pytest.raises(GpuctlError, match="no job named"):
        client.cancel()


def test_threads_may_share_a_client(client):
    found = []
    threads = [threading.Thread(target=lambda: found.append(client.request("ping")["ok"])) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [True] * 8


def test_a_forked_child_speaks_on_a_connection_of_its_own(client):
    client.request("ping")
    child = os.fork()
    if not child:
        os._exit(0 if client.request("ping")["ok"] else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.request("ping")["ok"]


def test_waits_events_and_futures_outlive_a_restart_of_gpud(a_gpud, monkeypatch):
    gpud = a_gpud("--simulate", "1xRTX4090")
    for name, value in {**gpud.own, "GPUD_STATE_DIR": str(gpud.state), "GPUD_CONFIG": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    go = gpud.work / "go"
    with Client(start=False) as client, client.executor(gpus=0) as executor:
        job = client.submit(["sh", "-c", "while test ! -e go; do sleep 0.05; done"], gpus=0, workdir=gpud.work)
        future = executor.submit(until, go.exists)
        events = client.events(job)
        until(future.running)
        restart = threading.Thread(target=lambda: (gpud.restart(), go.touch()))
        restart.start()

        assert client.wait(job)[0].state == "completed"
        restart.join()
        assert [next(event for event in events if event["kind"] == "completed")["job"], future.result(30)] == [
            job.id,
            True,
        ]
        assert client.submit(["true"], gpus=0).wait().state == "completed"
        gpud.stop()
        with pytest.raises(UnreachableError):
            Client(gpud.socket, start=False)
        monkeypatch.setattr("gpuctl.client.COMES_BACK_S", 0.0)
        monkeypatch.setattr("gpuctl.api.COMES_BACK_S", 0.0)
        for _ in range(2):  # however long it is away
            with pytest.raises(UnreachableError):
                client.jobs()
        gpud.start()
        assert [each.id for each in client.jobs(job)] == [job.id]
    assert job.refresh().state == "completed"
    client.close()


def test_whoever_submits_and_awaits_many_asks_for_little(client):
    asked, ended = [], {}

    def asking(of):
        def request(self, op, **fields):
            asked.append((op, fields.get("soon")))
            return of.request(self, op, **fields)

        return type("Asking", (of,), {"request": request})

    with asking(Client)() as one:
        jobs = [one.submit(["true"], gpus=0, hold=True) for _ in range(25)]
    assert set(asked) == {("submit", None), ("show", True)}  # when each is expected to start would take a second
    client.cancel(jobs)
    asked.clear()
    with asking(Connection)(client.path) as connection:
        wait_for(connection, [job.id for job in jobs], lambda row: ended.update({row["job"]["id"]: row}), whole=False)
    assert [op for op, _ in asked] == ["subscribe", "list"]
    assert [exit_status(ended[job.id]) for job in jobs] == [1] * 25
    assert all("cancelled" in job.happened for job in client.wait(jobs))
