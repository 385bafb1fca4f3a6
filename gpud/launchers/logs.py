"""Where a job's output goes when the submitter chose: `-o` and `--error` patterns."""

import os
import re

from gpud.model.job import JobId, format_job, index_of, number_of


def log_path(pattern: str, *, job: JobId, name: str, workdir: str) -> str:
    """Return the path a pattern names: `%j` the job (`12`, `12_7`), `%A` its number, `%a` its index, `%x` its name.

    `%%` is a percent sign; any other `%` stands for itself. `%a` is 0 for what is no element. A name's slashes become
    underscores, so that a name cannot choose a directory. Relative to the working directory.
    """
    words = {
        "%j": format_job(job),
        "%A": str(number_of(job)),
        "%a": str(index_of(job) or 0),
        "%x": name.replace("/", "_"),
        "%%": "%",
    }
    return os.path.join(workdir, re.sub("%.", lambda found: words.get(found[0], found[0]), pattern))
