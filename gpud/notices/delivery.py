"""Tell one target of one thing: a program of its own, run as whoever wants to be told, so that nothing waits for it.

`python -I delivery.py`, with `$GPUD_NOTICE`, a JSON object: `target`, `title`, `text`, `data`, `id`. It needs but the
standard library. Targets:

* `https://...`, `http://...`: the data is POSTed as JSON. With `$GPUD_WEBHOOK_SECRET` the header `X-Gpud-Signature`
  is `sha256=` and the hex HMAC of the body (RFC 2104), as GitHub's webhooks have it; `user:password@` before the host
  is sent as basic authentication (RFC 7617).
* `command:...`: run by /bin/sh in the home directory, the data on its stdin, `$GPUD_EVENT` and `$GPUD_TEXT` beside.
* `desktop`: notify-send, on the user's own session bus.
* `mailto:...`: the machine's sendmail; where there is none, and for every other scheme, apprise.

Exits with 0 when it arrived, 75 (EX_TEMPFAIL) when it may later, 78 (EX_CONFIG) when it never will; says why on stdout.
"""

import hashlib
import hmac
import json
import os
import shutil
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

PATIENCE_S = 20.0
_LATER = frozenset({408, 425, 429})  # HTTP: timeout, too early, too many requests


class UndeliverableError(Exception):
    """It did not arrive; `later`: it may, some time."""

    def __init__(self, why: str, *, later: bool) -> None:
        super().__init__(why)
        self.later = later


def main() -> NoReturn:
    """Deliver the notice of the environment."""
    try:
        deliver(json.loads(os.environ["GPUD_NOTICE"]))
    except UndeliverableError as error:
        sys.stdout.write(f"{error}\n")
        sys.exit(os.EX_TEMPFAIL if error.later else os.EX_CONFIG)
    sys.exit(0)


def deliver(notice: dict[str, Any]) -> None:
    """Deliver a notice. Raises UndeliverableError."""
    target: str = notice["target"]
    scheme = target.partition(":")[0].lower()
    if scheme in {"http", "https"}:
        _post(notice)
    elif scheme == "command":
        os.environ |= {"GPUD_EVENT": notice["data"]["event"], "GPUD_TEXT": notice["text"]}
        _run(["/bin/sh", "-c", target.partition(":")[2]], json.dumps(notice["data"]) + "\n")
    elif target == "desktop":
        _show(notice)
    elif scheme == "mailto" and _sendmail():
        head = f"To: {target.partition(':')[2]}\nSubject: {notice['title']}\nContent-Type: text/plain; charset=utf-8\n"
        _run([_sendmail(), "-t", "-i"], f"{head}\n{notice['text']}\n")
    else:
        _through_apprise(notice)


class _NoRedirects(HTTPRedirectHandler):
    """A redirected POST arrives as a GET without what was posted."""

    def redirect_request(self, *_: object) -> None:
        """Follow none: the answer is then the redirect itself, an error."""


def _post(notice: dict[str, Any]) -> None:
    body = json.dumps(notice["data"]).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "gpud", "X-Gpud-Delivery": str(notice["id"])}
    secret = os.environ.get("GPUD_WEBHOOK_SECRET")
    if secret:
        headers["X-Gpud-Signature"] = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    address = urlsplit(notice["target"])
    who, at, host = address.netloc.rpartition("@")
    if at:  # which urllib would take for the host's name
        headers["Authorization"] = "Basic " + b64encode(unquote(who).encode()).decode()
    try:
        request = Request(address._replace(netloc=host).geturl(), body, headers)  # noqa: S310 - the scheme was looked at
        with build_opener(_NoRedirects).open(request, timeout=PATIENCE_S):
            return
    except HTTPError as error:
        later = error.code >= 500 or error.code in _LATER
        raise UndeliverableError(f"it answered {error.code} {error.reason}", later=later) from None
    except URLError as error:
        raise UndeliverableError(f"it cannot be reached: {error.reason}", later=True) from None
    except (OSError, ValueError) as error:
        raise UndeliverableError(f"it cannot be reached: {error}", later=isinstance(error, OSError)) from None


def _run(words: list[str], given: str) -> None:
    try:
        done = subprocess.run(words, input=given.encode(), cwd=_home(), timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        raise UndeliverableError(f"it did not end within {PATIENCE_S:.0f} s", later=True) from None
    except OSError as error:
        raise UndeliverableError(f"it cannot be run: {error}", later=False) from None
    if done.returncode:
        raise UndeliverableError(f"it ended with {done.returncode}", later=True)


def _home() -> str | None:
    """Return where a command may put what it writes; None where there is no such place."""
    try:
        home = str(Path.home())
    except RuntimeError:
        return None
    return home if os.access(home, os.X_OK) else None


def _show(notice: dict[str, Any]) -> None:
    program = shutil.which("notify-send")
    if program is None:
        raise UndeliverableError("there is no notify-send: install libnotify-bin", later=False)
    bus = f"/run/user/{os.getuid()}/bus"
    if Path(bus).exists():
        os.environ.setdefault("DBUS_SESSION_BUS_ADDRESS", f"unix:path={bus}")
    _run([program, "--app-name=gpud", notice["title"], notice["text"]], "")


def _sendmail() -> str:
    return shutil.which("sendmail", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/lib") or ""


def _through_apprise(notice: dict[str, Any]) -> None:
    try:
        import apprise  # noqa: PLC0415 - an extra
    except ImportError:
        hint = "this gpud lacks apprise (pip install 'gpud[apprise]')"
        raise UndeliverableError(f"{notice['target'].partition(':')[0]}: {hint}", later=False) from None
    sender = apprise.Apprise()
    if not sender.add(notice["target"]):
        raise UndeliverableError("apprise does not know this target", later=False)
    if not sender.notify(title=notice["title"], body=notice["text"]):
        raise UndeliverableError("apprise could not deliver it", later=True)


if __name__ == "__main__":
    main()
