"""What a client may send, found by following the code: python tests/wire/fuzz_wire.py -atheris_runs=N (needs atheris).

Whatever the bytes, they come to messages, or to an error that is told; nothing else is ever raised.
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["gpud"]):
    from gpud.intake.selection import parse_jobs
    from gpud.intake.submission import spec_of
    from gpud.wire.check import Wrong, check
    from gpud.wire.codec import HELLO_MAX, ITEMS_MAX, FrameError, Frames, pack
    from gpud.wire.messages import REQUESTS

SUBMIT = {"nonce": "nonce-0001", "demand": {"gpus": 1}, "command": ["true"], "workdir": "/", "environment": {}}
WHO = {"uid": 1, "gid": 1, "groups": (), "user": "ada", "tenant": "", "begin_at": None, "after": ()}


def messages_of(data):
    """Cut bytes into messages, in two pieces."""
    frames, found = Frames(1 << 20, first_limit=HELLO_MAX, items_max=ITEMS_MAX), []
    half = len(data) // 2
    for piece in (data[:half], data[half:]):
        try:
            found += frames.feed(piece)
        except FrameError as error:
            return found + error.before
    return found


def take(message):
    """Take a request as the server does, up to what is done with it."""
    op = message.get("op")
    if not isinstance(op, str) or op not in REQUESTS:
        return
    try:
        check(REQUESTS[op], message)
        if op == "submit":
            spec_of(message, **WHO)
        if "select" in message:
            parse_jobs(message["select"].get("jobs", []))
    except Wrong:
        return


def one(data):
    """Take these bytes, and requests that are nearly right with pieces of them."""
    for message in messages_of(data):
        take(message)
    words = atheris.FuzzedDataProvider(data)
    op = words.PickValueInList(sorted(REQUESTS))
    value = words.PickValueInList(
        [words.ConsumeUnicode(20), words.ConsumeInt(8), words.ConsumeFloat(), [words.ConsumeUnicode(8)], None, True, {}]
    )
    key = words.PickValueInList(sorted(REQUESTS[op].__annotations__))
    whole = {**SUBMIT, "umask": 18, "limits": {}} if op == "submit" else {}
    take({"op": op, "id": 1, "select": {"jobs": [words.ConsumeUnicode(12)]}, **whole, key: value})
    take({"op": op, "id": 1, **whole, key: value})


if __name__ == "__main__":
    atheris.Setup([*sys.argv, "-max_len=4096"], one)
    one(pack({"op": "submit", "id": 1, **SUBMIT, "umask": 18, "limits": {}}))
    atheris.Fuzz()
