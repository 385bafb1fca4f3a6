"""People who asked to be told are told: over real HTTP, by real commands, also when gpud is killed in between."""

import hashlib
import hmac
import json
import os
import pwd
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from queue import Queue

import pytest
from gpud_process import WITHIN_S, until

from gpuctl.errors import GpuctlError

SECRET = "s3cret"  # noqa: S105 - of this test alone


class Hook:
    """A web server of one's own, which answers with `status` and keeps what it was told."""

    def __init__(self):
        self.told = Queue()
        self.status = 204
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.told.put((dict(self.headers), body))
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def next(self):
        """Return the headers and the data of the next notice."""
        headers, body = self.told.get(timeout=WITHIN_S)
        return headers, json.loads(body)

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hook():
    it = Hook()
    yield it
    it.close()


def history(gpud):
    return gpud.ask("notices")["notices"]


def settled(gpud):
    """Return the history once nothing of it is on its way."""
    return until(
        lambda: (found := history(gpud)) and all(each["state"] in {"sent", "failed"} for each in found) and found
    )


def test_a_webhook_is_told_of_the_start_and_the_end_signed(gpud, hook):
    job = gpud.submit(
        "false",
        name="train",
        notify=[["start", hook.url], ["failure", hook.url.replace("//", "//ada:%40x@")], ["success", hook.url]],
        environment={"PATH": "/usr/bin:/bin", "GPUD_WEBHOOK_SECRET": SECRET},
    )
    raw = [hook.told.get(timeout=WITHIN_S) for _ in range(2)]
    told = {json.loads(body)["event"]: (headers, body) for headers, body in raw}
    assert set(told) == {"start", "failure"}
    headers, body = told["failure"]
    assert headers["X-Gpud-Signature"] == "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert headers["Authorization"] == "Basic " + b64encode(b"ada:@x").decode()
    assert "Authorization" not in told["start"][0]
    data = json.loads(body)
    assert data["text"].startswith(f"job {job} (train) failed")
    assert json.loads(told["start"][1])["text"] == f"job {job} (train) has started"
    assert (data["job"]["id"], data["job"]["exit_code"]) == (job, 1)
    assert data["job"]["ended_at"].endswith("Z")
    assert {each["state"] for each in settled(gpud)} == {"sent"}


def test_a_command_runs_as_a_job_would_and_is_told_on_its_stdin(gpud):
    there = gpud.work / "told"
    place = gpud.work / "place"
    told = f"echo $PWD $GPUD_EVENT: $GPUD_TEXT > {place}"
    words = ("true", "x" * 100_000, "y" * 100_000)  # more than a variable has room for
    job = gpud.submit(*words, notify=[["end", f"command:{told}; cat > {there}.new; mv {there}.new {there}"]])
    until(there.exists)
    (line,) = there.read_text().splitlines(keepends=True)
    assert line.endswith("}\n")  # so that what appends them has lines
    data = json.loads(line)
    assert (data["job"]["id"], data["job"]["command"]) == (job, ["true", "..."])
    assert place.read_text() == f"{pwd.getpwuid(os.getuid()).pw_dir} end: job {job} (true) completed\n"
    (notice,) = settled(gpud)
    assert (notice["job"], notice["event"], notice["state"], notice["tries"]) == (job, "end", "sent", 1)


def test_what_is_refused_for_good_is_not_tried_again_and_a_dead_receiver_is(gpud, hook):
    hook.status = 403
    gpud.submit("true", notify=[["end", hook.url]])
    hook.next()
    (refused,) = settled(gpud)
    assert (refused["state"], refused["tries"]) == ("failed", 1)
    hook.status = 503
    second = gpud.submit("true", notify=[["end", hook.url]])
    hook.next()
    again = until(lambda: next((each for each in history(gpud) if each["job"] == second and each["error"]), None))
    assert (again["state"], again["tries"]) == ("due", 1)
    assert again["due_at"] > again["at"]


def test_a_slow_receiver_keeps_nobody_waiting_and_a_killed_gpud_forgets_nothing(gpud):
    gate, there = gpud.work / "gate", gpud.work / "told"
    slow = f"command:while ! test -e {gate}; do sleep 0.05; done; echo told >> {there}"
    first = gpud.submit("true", notify=[["end", slow]])
    gpud.ended(first)
    until(lambda: [each for each in history(gpud) if each["state"] == "sending"])
    assert gpud.ended(gpud.submit("true"))["state"] == "completed"
    gpud.kill()
    gpud.start()
    gate.touch()
    until(there.exists)
    (notice,) = settled(gpud)
    assert (notice["job"], notice["state"]) == (first, "sent")
    assert there.read_text() == "told\n"


def test_ends_that_came_while_gpud_was_dead_are_told(gpud, hook):
    gate = gpud.work / "gate"
    job = gpud.submit("sh", "-c", f"while ! test -e {gate}; do sleep 0.05; done", notify=[["end", hook.url]])
    gpud.running(job)
    gpud.kill()
    gate.touch()
    gpud.start()
    assert hook.next()[1]["job"]["id"] == job


def test_an_array_and_a_group_are_told_of_once(gpud, hook):
    array = gpud.submit("true", array="0-4", notify=[["end", hook.url]])
    assert hook.next()[1]["job"]["id"] == array
    both = [gpud.submit("sleep", "0.1", group="sweep", hold=True, notify=[["group", hook.url]]) for _ in range(2)]
    gpud.ask("release", select={"jobs": both})
    data = hook.next()[1]
    assert (data["group"], data["counts"]) == ("sweep", {"completed": 2})
    assert len(settled(gpud)) == 2


def test_who_waits_for_long_is_told_of_once(a_gpud, hook):
    gpud = a_gpud("--simulate", "1xH100", "--long-wait", "1")
    gpud.submit("true")
    job = gpud.submit("true", hold=True, notify=[["waiting", hook.url]])
    data = hook.next()[1]
    assert (data["event"], data["job"]["id"]) == ("waiting", job)
    assert "has waited for" in data["text"]
    gpud.kill()
    gpud.start()
    other = gpud.submit("true", hold=True)
    gpud.ask("update", select={"jobs": [other]}, notify=[["waiting", hook.url]])
    assert hook.next()[1]["job"]["id"] == other


@pytest.mark.parametrize(
    "rule",
    [
        ["sometimes", "desktop"],
        ["end", "nobody"],
        ["end", "x"],
        ["end", "http://"],
        ["end", "http://a b/"],
        ["end", "http://a:99999/"],
        ["end"],
    ],
)
def test_what_cannot_be_meant_is_refused_and_queues_nothing(gpud, rule):
    with pytest.raises(GpuctlError):
        gpud.submit("true", notify=[rule])
    assert gpud.ask("list")["jobs"] == []


@pytest.mark.skipif(find_spec("apprise") is not None, reason="apprise is here")
def test_whom_only_apprise_could_tell_is_refused_where_it_is_not(gpud):
    with pytest.raises(GpuctlError, match="lacks apprise") as told:
        gpud.submit("true", notify=[["end", "slack://a/b/c"]])
    assert "gpud[apprise]" in told.value.hint


def test_an_alert_reaches_who_administers(a_gpud, hook):
    gpud = a_gpud("--simulate", "1xH100", "--alerts", hook.url, "--log-format", "json")
    gpud.kill()
    gpud.start()
    data = hook.next()[1]
    assert data["event"] == "alert"
    assert data["what"] == "gpud_restarted"
    lines = [json.loads(line) for line in gpud.said().splitlines()]
    assert {"at", "level", "part", "message"} <= lines[-1].keys()


def test_whose_notices_take_long_keeps_only_their_own_waiting(a_gpud, hook):
    gpud = a_gpud("--simulate", "1xH100", "--alerts", hook.url)
    gate = gpud.work / "gate"
    gpud.submit("true", notify=[["end", f"command:while ! test -e {gate}; do sleep 0.1; done"]] * 6)

    def states(*, alerts):
        return sorted(each["state"] for each in history(gpud) if (each["job"] is None) == alerts)

    held_up = ["due", "due", "sending", "sending", "sending", "sending"]
    until(lambda: states(alerts=False) == held_up)
    gpud.kill()
    gpud.start()
    assert hook.next()[1]["what"] == "gpud_restarted"
    until(lambda: states(alerts=True) == ["sent"])
    assert states(alerts=False) == held_up
    gate.touch()
    assert {each["state"] for each in settled(gpud)} == {"sent"}
