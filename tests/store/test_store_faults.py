"""What stays true when the process is killed, the disk is full, or the file is not what it should be."""

import gzip
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from stored import T0, TERMS, a_whole_life, added, rows, starting

import gpud
from gpud.model.job import job_id
from gpud.store.files import StoreError, back_up, check_database, next_number, open_writer
from gpud.store.jobs import Store
from gpud.store.lock import lock_state
from gpud.store.reader import Reader
from gpud.store.schema import APPLICATION_ID, MIGRATIONS

HERE = Path(__file__).parent
GOLDEN = HERE / "schema-1.sqlite.gz"  # written by this schema's first gpud, and never again


def writing(what, path, *wrapper):
    return subprocess.Popen(
        [*wrapper, sys.executable, str(HERE / "writing.py"), what, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(gpud.__file__).parents[1])},
    )


def is_whole(path):
    return rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    path = tmp_path / "gpud.sqlite"
    for lines in (1, 2, 3, 5, 8, 13, 21, 34):
        process = writing("until_killed", path)
        with process:
            for _ in range(lines):
                promised = process.stdout.readline()
            process.kill()
            promised = (process.stdout.read().split() or [promised])[-1]

        assert is_whole(path)
        (newest,) = rows(path, "SELECT max(id) >> 24 FROM job")[0]
        assert newest >= int(promised)
        assert rows(path, "SELECT count(*) FROM job") == [(newest,)]
        assert rows(path, "SELECT count(*), max(seq) FROM event") == [(newest + (newest + 1) // 2 * 3,) * 2]
    with closing(Store.open(str(path))) as store:
        assert store.load().next_number == newest + 1


def test_a_file_that_cannot_grow_costs_nothing_that_was_promised(tmp_path):
    path = tmp_path / "gpud.sqlite"
    with writing("within_a_limit", path) as process:
        promised = json.loads(process.stdout.read())

    assert process.returncode == 0
    assert len(promised) > 3
    assert is_whole(path)
    assert [job for (job,) in rows(path, "SELECT id FROM job ORDER BY id")] == promised


def test_a_full_disk_costs_nothing_that_was_promised(tmp_path):
    """On a tmpfs of its own where this user may mount one, else in what a file size limit leaves."""
    mount = tmp_path / "small"
    mount.mkdir()
    script = f'mount -t tmpfs -o size=1m small {mount} && exec "$@"'
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    may_mount = subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    what, wrapper = ("on_a_small_disk", alone) if may_mount else ("within_a_limit", [])
    with writing(what, mount / "gpud.sqlite", *wrapper) as process:
        promised = json.loads(process.stdout.read())

    assert process.returncode == 0
    assert len(promised) > 3


def a_database(path):
    with closing(Store.open(str(path))) as store:
        store.commit([added(1), *a_whole_life(2), added(3), starting(job_id(3))])
    return path.read_bytes()


def not_a_database(path):
    path.write_bytes(b"these are not the bytes of a database " * 200)


def cut_short(path):
    path.write_bytes(a_database(path)[:20_000])


def first_page_overwritten(path):
    content = a_database(path)
    path.write_bytes(content[:100] + bytes(range(256)) * 8 + content[2148:])


def of_another_program(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")


def of_a_newer_gpud(path):
    a_database(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (not_a_database, "damaged"),
        (cut_short, "damaged"),
        (first_page_overwritten, "damaged"),
        (of_another_program, "not gpud's database"),
        (of_a_newer_gpud, f"newer gpud .schema {len(MIGRATIONS) + 1}"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_and_left_as_it_was(tmp_path, made, words):
    path = tmp_path / "gpud.sqlite"
    made(path)
    before = path.read_bytes()

    with pytest.raises(StoreError, match=words) as refused:
        Store.open(str(path))

    assert refused.value.hint
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.backup"))


def test_a_page_that_is_damaged_anywhere_is_found_by_who_checks_the_database(tmp_path):
    path = tmp_path / "gpud.sqlite"
    content = a_database(path)
    check_database(str(path))

    for at in range(4096, len(content), 4096):
        if content[at] not in {2, 5, 10, 13}:  # of a page that holds no tree, as a long text's
            continue
        path.write_bytes(content[:at] + bytes(range(256)) * 16 + content[at + 4096 :])
        with pytest.raises(StoreError, match="is damaged"):
            check_database(str(path))


def test_a_copy_is_not_mixed_with_the_log_of_what_it_was_put_in_the_place_of(tmp_path):
    path = tmp_path / "gpud.db"
    with closing(Store.open(str(path))) as store:
        store.commit([added(1)])
        back_up(str(path), str(tmp_path / "copy"))
        store.commit([added(2)])
        log = Path(f"{path}-wal").read_bytes()
    Path(f"{path}-wal").write_bytes(log)
    copy = (tmp_path / "copy").read_bytes()
    for there, said in ((b"", "is gone, and .* a part of it"), (copy, "is a copy, and .* beside it is not its own")):
        path.write_bytes(there)
        for use in (check_database, next_number, Store.open):
            with pytest.raises(StoreError, match=said):
                use(str(path))
        assert (path.read_bytes(), Path(f"{path}-wal").read_bytes()) == (there, log)
    Path(f"{path}-wal").unlink()
    assert next_number(str(path)) is None  # beyond what any log shows
    Store.open(str(path)).close()


def test_a_directory_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StoreError, match="No such file or directory") as refused:
        Store.open(str(tmp_path / "missing" / "gpud.sqlite"))

    assert "--state-dir" in refused.value.hint


@pytest.mark.parametrize("there", [True, False], ids=["existing", "new"])
def test_a_place_where_one_may_not_write_is_told(there):
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path: another user must reach it
        path = Path(folder) / "gpud.sqlite"
        if there:
            a_database(path)
            path.chmod(0o444)
        Path(folder).chmod(0o555)
        with writing("as_nobody", path) as process:
            why = process.stdout.read()
        Path(folder).chmod(0o755)

    assert "cannot " in why
    assert "--state-dir" in why


def test_an_empty_file_left_by_a_kill_is_taken_as_new(tmp_path):
    path = tmp_path / "gpud.sqlite"
    path.touch()

    with closing(Store.open(str(path))) as store:
        assert store.load().next_number == 1


def test_nobody_else_may_read_it(tmp_path):
    path, mask = tmp_path / "gpud.sqlite", os.umask(0)
    try:
        with closing(Store.open(str(path))) as store:
            store.commit([added(1)])
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    finally:
        os.umask(mask)

    assert modes == {"gpud.sqlite": 0o600, "gpud.sqlite-shm": 0o600, "gpud.sqlite-wal": 0o600}


def test_a_commit_is_synced_before_it_returns(tmp_path):
    with closing(Store.open(str(tmp_path / "gpud.sqlite"))) as store:
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


LATER = (*MIGRATIONS, ("ALTER TABLE job ADD COLUMN mood TEXT",), ("DROP TABLE usage",))


def test_a_migration_keeps_a_backup_without_secrets_whose_waiting_jobs_are_held(tmp_path):
    path, backup = tmp_path / "gpud.sqlite", tmp_path / f"gpud.sqlite.v{len(MIGRATIONS)}.backup"
    a_database(path)

    open_writer(str(path), migrations=LATER).close()

    assert rows(path, "PRAGMA user_version") == [(len(LATER),)]
    assert rows(path, "SELECT mood FROM job WHERE id = ?", job_id(1)) == [(None,)]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert b"secret-token" in path.read_bytes()
    assert b"secret-token" not in backup.read_bytes()
    with closing(Store.open(str(backup))) as old, closing(Reader(str(backup))) as reader:
        assert [each.job for each in old.load().others] == [job_id(1), job_id(3)]
        assert (reader.job(job_id(1)).state, "backup" in reader.job(job_id(1)).reason) == ("held", True)


def test_a_migration_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "gpud.sqlite"
    a_database(path)

    with pytest.raises(sqlite3.OperationalError):
        open_writer(str(path), migrations=(*LATER, ("DROP TABLE nothing",)))

    with closing(Store.open(str(path))) as store:
        assert store.commit([added(4)]).events[0].job == job_id(4)


def test_the_first_released_schema_is_still_read(tmp_path):
    path = tmp_path / "gpud.sqlite"
    path.write_bytes(gzip.decompress(GOLDEN.read_bytes()))

    with closing(Store.open(str(path))) as store, closing(Reader(str(path))) as reader:
        loaded = store.load()
        assert loaded.waiting == [(job_id(1), replace(TERMS, name_group=""), 0, 1)]
        assert [each.job for each in loaded.others] == [job_id(3), job_id(4), job_id(4, 0)]
        assert reader.job(job_id(2)).ended_at == T0
        assert store.commit([], [(job_id(1), 1)]).specs[0].nonce == "nonce-1"


def test_a_released_migration_is_never_edited(tmp_path):
    golden, fresh = tmp_path / "golden.sqlite", tmp_path / "fresh.sqlite"
    golden.write_bytes(gzip.decompress(GOLDEN.read_bytes()))
    open_writer(str(fresh), migrations=MIGRATIONS[:1]).close()

    schema = "SELECT name, sql FROM sqlite_master ORDER BY name"
    assert rows(golden, schema) == rows(fresh, schema)
    assert rows(golden, "PRAGMA application_id") == [(APPLICATION_ID,)]


def test_a_second_gpud_on_a_state_directory_is_told_who_has_it(tmp_path):
    process = writing("locked", tmp_path)
    with process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(StoreError, match=rf"process {process.pid}\b"):
            lock_state(str(tmp_path))
        process.kill()
    lock_state(str(tmp_path)).release()
    lock_state(str(tmp_path)).release()


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="no systemd-tmpfiles")
def test_who_clears_out_temporary_directories_leaves_that_of_a_gpud_alone(tmp_path):
    state = tmp_path / "cleared" / "state"
    state.mkdir(parents=True)
    (state / "gpud.db").touch()
    (tmp_path / "clear.conf").write_text(f"d {state.parent} 0700 - - 0\n")
    clear = ["systemd-tmpfiles", "--clean", str(tmp_path / "clear.conf")]
    lock = lock_state(str(state))
    subprocess.run(clear, check=False)
    assert (state / "gpud.db").exists()
    lock.release()
    subprocess.run(clear, check=False)
    assert not (state / "gpud.db").exists()


def test_a_directory_that_cannot_be_locked_is_told(tmp_path):
    with pytest.raises(StoreError, match="No such file or directory") as refused:
        lock_state(str(tmp_path / "missing"))
    assert refused.value.hint


def test_a_reader_of_nothing_is_told(tmp_path):
    with pytest.raises(StoreError, match="cannot"):
        Reader(str(tmp_path / "gpud.sqlite"))


def test_who_reads_what_is_damaged_is_told_whatever_they_ask(tmp_path):
    path = tmp_path / "gpud.sqlite"
    content = a_database(path)
    questions = (
        lambda reader: reader.rows([job_id(1)]),
        lambda reader: reader.completed(1000, "sweep", "one"),
        lambda reader: reader.environments([job_id(1)]),
        lambda reader: reader.holders([(1000, "sweep", "one")]),
    )
    with closing(Reader(str(path))) as reader:
        path.write_bytes(content[:4096] + bytes(range(1, 256)) * ((len(content) - 4096) // 255))
        for ask in questions:
            with pytest.raises(StoreError, match="is damaged"):
                ask(reader)


def test_another_program_holding_the_database_is_told(tmp_path):
    path = tmp_path / "gpud.sqlite"
    with closing(Store.open(str(path))) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        store._db.execute("PRAGMA busy_timeout = 10")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            store.commit([added(1)])
        other.execute("COMMIT")
        assert store.commit([added(1)]).events[0].seq == 1
