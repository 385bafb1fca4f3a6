"""What gpud says of itself: lines for people, for journald with its levels, or JSON objects for a collector of logs."""

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime

from gpud.settings.config import Config

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_PRIORITIES = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}  # syslog(3)


class _Json(logging.Formatter):
    """One JSON object a line: time, level, message, and what went wrong."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"at": at, "level": record.levelname.lower(), "part": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Lines(logging.Formatter):
    """A line for each message, whatever names others gave to what it tells of."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Return the message with nothing in it that begins a line, or moves a cursor."""
        record.message = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], record.message)
        return super().formatMessage(record)


class _Journal(_Lines):
    """Every line with its level as journald reads it (sd-daemon(3)); the time is journald's own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines."""
        mark = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(mark + line for line in super().format(record).splitlines())


def start_log(config: Config) -> None:
    """Log to stderr from now on, in the form that is configured, or that journald understands where it listens."""
    logging.basicConfig(stream=sys.stderr, level=config.log_level.upper())
    about = os.fstat(sys.stderr.fileno())
    formatter: logging.Formatter
    if config.log_format == "json":
        formatter = _Json()
    elif os.environ.get("JOURNAL_STREAM") == f"{about.st_dev}:{about.st_ino}":
        formatter = _Journal("%(message)s")
    else:
        formatter = _Lines("%(asctime)s %(levelname)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
