"""The shape of the database, as numbered migrations: version N is what the first N of them make.

A migration once released never changes; a new one is added below it. All that are due run in one transaction, so a
database is of one version or of the other, never between. `PRAGMA user_version` says which; `application_id` says
that it is gpud's at all.

Times are seconds since 1970 (REAL), memory is MiB, `job.id` is model.job.JobId: an array's elements follow its own row.
Columns that hold lists hold JSON.
"""

APPLICATION_ID = 0x67707564  # "gpud", big-endian, in the file's header: `file` and a hex dump show it

_FIRST = (
    # What is true of the whole database. protocol_min and protocol_max: what the gpud that wrote it speaks.
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
    "INSERT INTO meta VALUES ('protocol_min', NULL), ('protocol_max', NULL)",
    "CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # A line's terms, once, however many jobs stand in it.
    "CREATE TABLE terms (id INTEGER PRIMARY KEY, body TEXT NOT NULL UNIQUE)",
    # By content; `used_at` is, to the day, when a job with it was last submitted or ended.
    "CREATE TABLE environment (hash BLOB PRIMARY KEY, used_at REAL NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE script (hash BLOB PRIMARY KEY, used_at REAL NOT NULL, data BLOB NOT NULL)",
    """CREATE TABLE job (
        id INTEGER PRIMARY KEY,
        state TEXT NOT NULL,
        ended_at REAL,
        attempt INTEGER NOT NULL DEFAULT 1,
        failures INTEGER NOT NULL DEFAULT 0,
        park TEXT,
        not_before REAL,
        terms INTEGER NOT NULL REFERENCES terms (id),
        priority INTEGER NOT NULL,
        queued_us INTEGER NOT NULL,
        reason TEXT,
        submitted_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        array TEXT,
        throttle INTEGER,
        live INTEGER,
        pending TEXT,
        dropped TEXT,
        counts TEXT,
        nonce TEXT,
        uid INTEGER NOT NULL,
        user TEXT NOT NULL,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        name_group TEXT NOT NULL,
        group_name TEXT,
        key TEXT,
        after TEXT,
        estimate_s REAL,
        preemptible INTEGER,
        command TEXT NOT NULL,
        workdir TEXT NOT NULL,
        labels TEXT,
        output TEXT,
        error TEXT,
        submitted TEXT NOT NULL,
        environment BLOB,
        script BLOB
    )""",
    "CREATE UNIQUE INDEX job_nonce ON job (nonce) WHERE nonce IS NOT NULL",
    # Everything that a start of gpud reads of a plain waiting job, in the order of submission; history is not in it.
    # `ended_at` is in it because SQLite looks even at what an index's own WHERE says: without, it reads every row.
    """CREATE INDEX job_unfinished ON job (id, state, attempt, failures, park, not_before, live, terms, priority,
        queued_us, ended_at) WHERE ended_at IS NULL""",
    "CREATE INDEX job_ended ON job (ended_at, user, state) WHERE ended_at IS NOT NULL",
    "CREATE INDEX job_owner ON job (user, id, state, ended_at) WHERE ended_at IS NOT NULL",
    "CREATE INDEX job_outcome ON job (state, id, ended_at) WHERE ended_at IS NOT NULL",
    # `allocation`: [{node, shares: [{gpu, memory_mib, milli}], cpus, memory_mib}]; `milli` where there is one.
    """CREATE TABLE attempt (
        job INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        starting_at REAL NOT NULL,
        since REAL NOT NULL,
        started_at REAL,
        boot TEXT NOT NULL,
        allocation TEXT NOT NULL,
        pid INTEGER,
        pid_start INTEGER,
        shim INTEGER,
        shim_start INTEGER,
        cause TEXT,
        kill_at REAL,
        ended_at REAL,
        exit_code INTEGER,
        signal INTEGER,
        fault TEXT,
        fault_machine INTEGER,
        fault_not_found INTEGER,
        lost TEXT,
        timed_out INTEGER,
        cpu_s REAL,
        max_rss_mib INTEGER,
        leftovers INTEGER,
        finding TEXT,
        stuck INTEGER,
        gpu_s REAL,
        PRIMARY KEY (job, attempt)
    ) WITHOUT ROWID""",
    """CREATE TABLE event (
        seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, job INTEGER, attempt INTEGER, detail TEXT
    )""",
    "CREATE INDEX event_job ON event (job) WHERE job IS NOT NULL",
    # What was used, by whom, on which day (since 1970, UTC), by how it ended: attempts' seconds, jobs' ends.
    """CREATE TABLE usage (
        uid INTEGER NOT NULL, tenant TEXT NOT NULL, day INTEGER NOT NULL, outcome TEXT NOT NULL,
        gpu_s REAL NOT NULL DEFAULT 0, cpu_s REAL NOT NULL DEFAULT 0, jobs INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (uid, tenant, day, outcome)
    ) WITHOUT ROWID""",
    """CREATE TABLE node (
        name TEXT PRIMARY KEY, cpus INTEGER NOT NULL, memory_mib INTEGER NOT NULL, driver TEXT, problem TEXT,
        seen_at REAL NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE gpu (
        uuid TEXT PRIMARY KEY, node TEXT NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL,
        memory_total_mib INTEGER NOT NULL, pci_id TEXT, simulated INTEGER NOT NULL, seen_at REAL NOT NULL
    ) WITHOUT ROWID""",
)

_SECOND = (
    "ALTER TABLE job ADD COLUMN mishaps INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE job ADD COLUMN attained_s REAL NOT NULL DEFAULT 0",
    "ALTER TABLE job ADD COLUMN awaits INTEGER NOT NULL DEFAULT 0",
    # What was used, decayed to `at`, in GPU-seconds; user '' is the tenant's own account.
    """CREATE TABLE account (
        tenant TEXT NOT NULL, user TEXT NOT NULL, used_s REAL NOT NULL, lifted_s REAL NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (tenant, user)
    ) WITHOUT ROWID""",
    "ALTER TABLE gpu ADD COLUMN nvlink TEXT",
    "ALTER TABLE gpu ADD COLUMN pcie TEXT",
    "ALTER TABLE gpu ADD COLUMN numa INTEGER",
    "ALTER TABLE gpu ADD COLUMN mig TEXT",
    "ALTER TABLE gpu ADD COLUMN parent TEXT",
    "ALTER TABLE gpu ADD COLUMN split INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE attempt ADD COLUMN peak_mib INTEGER",
    # All that is counted of a day, or a week: see `history`.
    "CREATE INDEX attempt_ended ON attempt (ended_at, starting_at, gpu_s, cause) WHERE ended_at IS NOT NULL",
    # What was seen of its GPUs: a list of what is known of each, as model.use has it.
    "ALTER TABLE attempt ADD COLUMN gpu_uses TEXT",
    # What GPUs were used for, by the hour: see `spending`. What is there already counts for the hour of its end.
    """CREATE TABLE spent (
        hour INTEGER NOT NULL, user TEXT NOT NULL, tenant TEXT NOT NULL, group_name TEXT NOT NULL, gpu TEXT NOT NULL,
        gpu_s REAL NOT NULL, known_s REAL NOT NULL, busy_s REAL NOT NULL, idle_s REAL NOT NULL, energy_j REAL NOT NULL,
        attempts INTEGER NOT NULL, starts INTEGER NOT NULL, wait_s REAL NOT NULL,
        PRIMARY KEY (hour, user, tenant, group_name, gpu)
    ) WITHOUT ROWID""",
    """INSERT INTO spent
        SELECT CAST(attempt.ended_at / 3600 AS INTEGER) * 3600, job.user, job.tenant, coalesce(job.group_name, ''),
            coalesce(json_extract(share.value, '$.gpu'), ''),
            sum(coalesce(attempt.gpu_s, 0.0) / max(1, (SELECT sum(json_array_length(value, '$.shares'))
                FROM json_each(attempt.allocation)))), 0.0, 0.0, 0.0, 0.0,
            sum(part.key = 0 AND coalesce(share.key, 0) = 0),
            sum(attempt.attempt = 1 AND part.key = 0 AND coalesce(share.key, 0) = 0),
            sum(CASE WHEN attempt.attempt = 1 AND part.key = 0 AND coalesce(share.key, 0) = 0 THEN
                max(0.0, attempt.starting_at - max(job.submitted_at,
                    coalesce(json_extract(job.submitted, '$.begin_at'), 0.0))) ELSE 0.0 END)
        FROM attempt JOIN job ON job.id = attempt.job JOIN json_each(attempt.allocation) AS part
            LEFT JOIN json_each(part.value, '$.shares') AS share
        WHERE attempt.ended_at IS NOT NULL GROUP BY 1, 2, 3, 4, 5""",
    # What a user's processes had of it without a job.
    "ALTER TABLE spent ADD COLUMN foreign_s REAL NOT NULL DEFAULT 0",
    # One job of a key in its group waits, runs or has completed; those that ended otherwise do not count.
    """CREATE UNIQUE INDEX job_key ON job (uid, group_name, key)
        WHERE key IS NOT NULL AND (ended_at IS NULL OR state = 'completed')""",
    # Who is in which group: of what has not ended, read at start; of everything, for its progress.
    """CREATE INDEX job_grouped ON job (id, group_name, uid, key, ended_at)
        WHERE group_name IS NOT NULL AND ended_at IS NULL""",
    "CREATE INDEX job_group ON job (group_name, ended_at, state, user, key) WHERE group_name IS NOT NULL",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _SECOND)
