"""Installing gpud as a service: what would be done, a copy of what runs that works, and code that is refused.

What needs a systemd is in tests/systemd.
"""

import os
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

from gpuctl.errors import GpuctlError
from gpuctl.setup import copying, installing, ownership

ROOT = Path(__file__).parents[2]


def test_the_package_holds_the_units_of_this_repository_and_nothing_is_forgotten():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = [
        path for glob in project["tool"]["setuptools"]["package-data"]["gpuctl"] for path in ROOT.glob(f"gpuctl/{glob}")
    ]
    units = [path for path in (ROOT / "systemd").rglob("*") if path.is_file() and path.name != "README.md"]

    assert {path.resolve() for path in shipped} >= {path.resolve() for path in units}
    assert {path.name for path in units} >= set(installing.UNITS)


def test_what_is_copied_is_what_the_project_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["scripts"] == copying.SCRIPTS
    assert sorted(copying.NEEDED) == sorted(each.split(">")[0] for each in project["dependencies"])


def test_units_name_the_socket_where_gpuctl_looks_for_it(monkeypatch, tmp_path):
    monkeypatch.delenv("GPUD_STATE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    mine = installing.place(system=False)
    usual = installing.unit(mine, "gpud.socket")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "100%"))
    elsewhere = installing.unit(mine, "gpud.socket")

    assert "ListenStream=%h/.local/state/gpud/%m/gpud.sock\n" in usual
    assert f"ListenStream={tmp_path}/100%%/gpud/" in elsewhere


def test_a_dry_run_says_every_step_and_does_none(alone, tmp_path):
    own = {"HOME": str(tmp_path), "GPUD_STATE_DIR": "/tmp/state"}  # a short path, for systemd's sake
    done = alone("daemon", "install", "--user", "--dry-run", environ=own)

    if done.returncode == 0:
        steps = done.stdout.splitlines()
        assert f"write {tmp_path}/.config/systemd/user/gpud.socket" in steps
        assert any(step.startswith(f"link {tmp_path}/.local/bin/gpuctl") for step in steps)
    else:  # the Python of this test is where others may write, or the machine has a gpud
        why = ("can be changed by other users", "belongs to", "a gpud for everybody")
        assert any(words in done.stderr for words in why), done.stderr
    assert list(tmp_path.glob(".config")) == []


def test_for_whom_must_be_said(alone):
    assert alone("daemon", "install", "--dry-run").returncode == 2


def test_the_copy_runs_by_itself_in_the_place_of_one_before(tmp_path):
    prefix = tmp_path / "gpud"
    prefix.mkdir()
    (prefix / "left").touch()
    copying.build(str(prefix))

    bare = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/nonexistent", "HOME": str(tmp_path)}
    for script in ("gpud", "gpuctl"):
        said = subprocess.check_output([prefix / "bin" / script, "--version"], env=bare, cwd="/", text=True)
        assert said.split()[0] == script
    where = "import gpud, click, sys; print(gpud.__file__, click.__file__, sys.prefix)"
    told = subprocess.check_output([prefix / "bin" / "python", "-Ic", where], env=bare, cwd="/", text=True)
    assert all(path.startswith(str(prefix)) for path in told.split()), told
    assert sorted(path.name for path in prefix.iterdir()) == ["bin", "lib", "pyvenv.cfg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpud"]
    assert not [path for path in prefix.rglob("*") if not path.is_symlink() and path.stat().st_mode & stat.S_IWOTH]
    assert list(prefix.glob("lib/*/site-packages/gpud/__pycache__/daemon.*.pyc"))


@pytest.mark.parametrize(("mode", "refused"), [(0o755, False), (0o777, True), (0o775, True)])
def test_code_that_others_can_change_is_refused(tmp_path, mode, refused):
    code = tmp_path / "code"
    code.mkdir()
    (code / "module.py").touch(mode=0o644)
    if mode == 0o775:
        if os.getuid():
            pytest.skip("only root may give a directory to another group")
        os.chown(code, 0, 12345)
    code.chmod(mode)

    if refused:
        with pytest.raises(GpuctlError, match="can be changed by other users") as error:
            ownership.check_place(str(code / "module.py"), system=False)
        assert error.value.hint == f"chmod go-w {code}"
    else:
        ownership.check_source(str(code / "module.py"))
        with pytest.raises(GpuctlError):  # nobody else gets into a test's folder, or it is not root's
            ownership.check_place(str(code / "module.py"), system=True)
