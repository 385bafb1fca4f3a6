"""Where a job's output goes when the submitter chose: `-o` and `--error` patterns."""

import os
import re

from gpud.model.job import JobId, format_job, index_of, number_of


def log_path(pattern: str, *, job: JobId, name: str, workdir: str) -> str:
    """Return the path a pattern names: `%j` the job (`12`, `12_7`), `%A` its number, `%a` its index, `%x` its name.

    `%%` is a percent sign; any other `%` stands for itself. `%a` is 0 for what is no element; `%4a` has so many digits
    at least. A name's slashes become underscores, so that a name cannot choose a directory. Relative to the working
    directory.
    """
    words = {
        "j": format_job(job),
        "A": str(number_of(job)),
        "a": str(index_of(job) or 0),
        "x": name.replace("/", "_"),
        "%": "%",
    }

    def put(found: re.Match[str]) -> str:
        word = words.get(found[2])
        return found[0] if word is None or (found[1] and not word.isdigit()) else word.zfill(int(found[1] or 0))

    return os.path.join(workdir, re.sub(r"%(\d{0,2})(.)", put, pattern))


def jobs_directory(pattern: str | None) -> str | None:
    """Return the pattern of the first directory that nobody can have made, for it is called by the job: `logs/%j/out`.

    None where there is no such one.
    """
    found = re.match(r"((?:[^%]|%%)*%(?!%)[^/]*)/", pattern or "")
    return None if found is None else found[1]
