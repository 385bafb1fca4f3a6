"""What git has of a job's directory is recorded with it."""

import os
import subprocess

import pytest

from gpuctl.submitting import git

WHO = ("-c", "user.name=me", "-c", "user.email=me@here", "-c", "init.defaultBranch=main")


def run_git(where, *words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(["git", *WHO, *words], cwd=where, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """Make a repository with one commit."""
    made = tmp_path / "repository"
    (made / "below").mkdir(parents=True)
    (made / "train.py").write_text("1\n")
    run_git(made, "init", "-q")
    run_git(made, "add", ".")
    run_git(made, "commit", "-q", "-m", "first")
    return made


def known(where) -> dict[str, object]:
    git.recorded.cache_clear()
    return git.recorded(str(where), 0)


def test_a_job_is_shown_with_the_commit_and_whether_anything_was_changed(gpuctl, repository):
    commit = run_git(repository, "rev-parse", "HEAD")
    clean = gpuctl.ok("submit", "--hold", "-C", str(repository / "below"), "--", "true")
    (repository / "train.py").write_text("2\n")
    changed = gpuctl.ok("submit", "--hold", "--array", "0-1", "-C", str(repository), "--", "true")
    elsewhere = gpuctl.ok("submit", "--hold", "--", "true")
    shown = [gpuctl.json("show", job) for job in (clean, changed, elsewhere)]
    assert [job["commit"] for job in shown] == [commit, commit, None]
    for job, dirty in zip(shown, (False, True, None), strict=True):
        assert job["dirty"] in (dirty, None)  # None: git took long
    assert commit[:12] in gpuctl.ok("show", clean)


def test_the_commit_is_found_in_branches_packed_references_detached_heads_and_worktrees(repository, tmp_path):
    commit = run_git(repository, "rev-parse", "HEAD")
    assert known(repository)["commit"] == commit
    run_git(repository, "pack-refs", "--all")
    assert known(repository)["commit"] == commit
    run_git(repository, "worktree", "add", "-q", str(tmp_path / "beside"))
    (repository / "train.py").write_text("2\n")
    run_git(repository, "commit", "-qam", "second")
    assert known(repository)["commit"] == run_git(repository, "rev-parse", "HEAD") != commit
    assert known(tmp_path / "beside")["commit"] == commit
    run_git(repository, "checkout", "-q", commit)
    assert known(repository)["commit"] == commit


def test_where_nothing_was_committed_or_git_is_broken_nothing_is_recorded(tmp_path):
    run_git(tmp_path, "init", "-q")
    assert known(tmp_path) == {}
    (tmp_path / ".git" / "HEAD").unlink()
    os.mkfifo(tmp_path / ".git" / "HEAD")
    assert known(tmp_path) == {}


def test_a_git_that_does_not_answer_is_not_waited_for(repository, monkeypatch, tmp_path):
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "dirty" not in known(repository)
