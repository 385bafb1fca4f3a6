"""Those who ask a simulated gpud for things, change their minds, and remember what they were promised."""

from itertools import count

from outside import BrokenPromiseError

from gpud.wire.check import check
from gpud.wire.messages import REQUESTS

PROMISES = ("cancel", "hold", "drain", "pause")
TAKES_BACK = {
    "requeue": ("cancel", "hold"),
    "release": ("hold",),
    "cancel": ("hold",),
    "undrain": ("drain",),
    "resume": ("pause",),
}


class Connection:
    """One client's connection to one gpud."""

    protocol, gid, closed = 1, 1000, False

    def __init__(self, crowd, uid):
        self.crowd, self.uid, self.pid = crowd, uid, uid
        self.asked = {}

    def groups(self):
        return ()

    def charge(self, size):
        """Count nothing: nobody here asks for more than may be asked for."""

    def ask(self, op, then=None, **fields):
        """Send a request; `then` takes the answer, if there ever is one; of a submit that is refused, None."""
        number = next(self.crowd.numbers)
        message = {"op": op, "id": number, **fields}
        check(REQUESTS[op], message)
        self.asked[number] = op, then
        self.crowd.on_request(self, message)

    def reply(self, request, answer):
        self.crowd.point("answer")
        _, then = self.asked.pop(request)
        if then is not None:
            then(answer)

    def error(self, request, error):
        self.crowd.point("refusal")
        op, then = self.asked.pop(request)
        if "gpud failed" in error["message"]:
            raise BrokenPromiseError(f"{op}: {error}")
        self.crowd.tell(f"{op} is refused: {error['message']}")
        if op == "submit" and error["code"] != "storage":
            then(None)

    def push(self, message):
        self.crowd.point("event")
        self.crowd.told(message["event"])

    def cut(self, why):
        """The past cannot be read: subscribe anew."""
        self.crowd.tell(f"a client is cut off: {why}")
        self.closed = True
        self.crowd.cut_off(self)


class Crowd:
    """Everybody, over the lives of all gpuds. `on_request` is the one's that lives."""

    def __init__(self, rng, tell, point, wall):
        self.rng, self.tell, self.point, self.wall = rng, tell, point, wall
        self.numbers = count(1)
        self.on_request = None
        self.people = []
        self.submits = {}  # by nonce: what is asked for
        self.jobs = {}  # by nonce: the id that was promised
        self.refused = set()
        self.arrays = set()
        self.promised = {op: set() for op in PROMISES}  # what was answered with yes, and nobody has taken back
        self.last_event = 0

    # -- lives of gpuds

    def connect(self, on_request):
        """Speak to a gpud that has just come up; what was not answered is sent again."""
        self.on_request = on_request
        self.people = [Connection(self, uid) for uid in (1000, 1001)]
        self.person().ask("subscribe", since=self.last_event)
        for nonce in [nonce for nonce in self.submits if nonce not in self.jobs and nonce not in self.refused]:
            self._send(nonce, retry=True)

    def cut_off(self, gone):
        self.people.remove(gone)
        self.people.append(Connection(self, gone.uid))
        self.people[-1].ask("subscribe", since=self.last_event)

    def hang_up(self):
        """It is gone, with what it has not answered."""
        self.on_request = None
        for each in self.people:
            each.closed = True

    @property
    def unanswered(self):
        """Whether anybody waits for an answer."""
        return any(each.asked for each in self.people)

    def person(self):
        return self.rng.choice(self.people)

    def told(self, event):
        if event["seq"] != self.last_event + 1:
            raise BrokenPromiseError(f"event {event['seq']} comes after {self.last_event}")
        self.last_event = event["seq"]

    # -- what they ask for

    def submit(self, gpus):
        rng = self.rng
        demand = {"gpus": rng.choice((1, 1, 1, 0, 2, gpus))}
        if rng.random() < 0.1:
            demand = {"gpus": 1, "share_permille": rng.choice((250, 500))}
        fields = {"demand": demand, "command": ["true"], "workdir": "/", "environment": {}, "umask": 18, "limits": {}}
        options = {
            "array": lambda: rng.choice(("0-2", "0-5%2", "1,4%1")),
            "after": lambda: {rng.choice(("success", "any", "failed")): [self.some_job()]},
            "begin_at": lambda: self.wall() + rng.choice((0, 2, 20)),
            "hold": lambda: True,
            "priority": lambda: rng.choice((-5, 5)),
            "preemptible": lambda: True,
            "retries": lambda: 2,
            "time_limit_s": lambda: rng.choice((0.5, 5.0)),
            "estimate_s": lambda: rng.choice((1.0, 30.0)),
            "grace_s": lambda: rng.choice((0.0, 2.0)),
            "group": lambda: "sweep",
            "tenant": lambda: "lab",
            "name": lambda: rng.choice(("train", "eval")),
        }
        for key in rng.sample(sorted(options), rng.choice((0, 0, 1, 2, 3))):
            if key != "after" or self.jobs:
                fields[key] = options[key]()
        if "group" in fields and rng.random() < 0.5:
            fields["key"] = rng.choice("abc")
        nonce = f"nonce-{len(self.submits):04}"
        self.submits[nonce] = fields
        self._send(nonce)
        if rng.random() < 0.1:
            self._send(nonce, retry=True)

    def _send(self, nonce, **more):
        fields = self.submits[nonce]
        self.tell(f"submit {nonce}: {fields} {more or ''}")
        copied = {key: dict(value) if isinstance(value, dict) else value for key, value in fields.items()}
        self.person().ask("submit", lambda answer: self._accepted(nonce, answer), nonce=nonce, **copied, **more)

    def _accepted(self, nonce, answer):
        if answer is None:  # and never will be
            if nonce not in self.jobs:
                self.refused.add(nonce)
            return
        job = answer["job"]
        if self.jobs.setdefault(nonce, job) != job and "key" not in self.submits[nonce]:
            raise BrokenPromiseError(f"{nonce} was promised as {self.jobs[nonce]}, and now as {job}")
        self.tell(f"{nonce} is job {job}")
        if "array" in self.submits[nonce] and "there" not in answer:
            self.arrays.add(job)

    def some_job(self):
        job = self.rng.choice(sorted(self.jobs.values()))
        if job in self.arrays and self.rng.random() < 0.5:
            return f"{job}_1"
        return job

    def change(self, op, **more):
        if self.jobs:
            self.ask_about(op, self.some_job(), select=True, **more)

    def ask_about(self, op, subject, *, select=False, **fields):
        """Ask for what can be taken back, and remember what was promised."""
        for promise in TAKES_BACK.get(op, ()):
            whole = subject.partition("_")[0]
            self.promised[promise] = {each for each in self.promised[promise] if each.partition("_")[0] != whole}
        if select:
            fields["select"] = {"jobs": [subject]}
        self.tell(f"{op} {fields}")

        def then(answer):
            waiting = {each for one in self.people for each, _ in one.asked.values()}
            opposed = any(op in TAKES_BACK.get(each, ()) for each in waiting)
            taken = answer["changed"]
            if op in self.promised and taken and not opposed:
                self.promised[op] |= {subject} if taken is True else set(taken)

        self.person().ask(op, then, **fields)

    # -- what they were promised

    def at_launch(self, job, attempt, gpus):
        """Look whether somebody was promised that this would not be."""
        if self.promised["pause"]:
            raise BrokenPromiseError(f"{job} is launched in a pause")
        for gpu in gpus:
            if gpu.removeprefix("GPU-") in self.promised["drain"]:
                raise BrokenPromiseError(f"{job} is launched on {gpu}, which is drained")
        whole = job.partition("_")[0]
        if {job, whole} & self.promised["cancel"]:
            raise BrokenPromiseError(f"{job} is launched after it was cancelled")
        if job in self.promised["hold"] or (attempt == 1 and whole in self.promised["hold"]):
            raise BrokenPromiseError(f"{job} is launched while it is held")
