"""A virtual environment of gpud's own, made of what runs now: nothing is fetched, and nothing is built.

What this gpuctl was started from (an installed distribution, or a checkout) and what it depends on is copied, so the
new environment holds exactly what works here, on a machine without network too, and whatever the machine's Python
allows pip to do (PEP 668). It has no pip: a newer gpud's `gpuctl daemon install` replaces it whole.
"""

import compileall
import os
import re
import shutil
import stat
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata

import gpuctl
import gpud
from gpuctl.errors import GpuctlError
from gpuctl.setup.ownership import check_source

SCRIPTS = {"gpuctl": "gpuctl.__main__:main", "gpud": "gpud.__main__:main", "gpud-launcher": "gpud.__main__:launcher"}
NEEDED = ("click", "msgpack", "nvidia-ml-py", "psutil", "rich")
_UNUSED = re.compile("/pygments/(lexers|styles|formatters)/")  # hundreds of files, of which gpuctl opens none
_SCRIPT = """#!{prefix}/bin/python3 -I
import sys

from {module} import {name}

sys.exit({name}())
"""


def base_python() -> str:
    """Return the interpreter below whatever environment this one is."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def build(prefix: str) -> None:
    """Make the environment, or put a new one in the place of the one that is there. Raises GpuctlError.

    It is made beside its place: a start of gpud finds the old one or the new one. What runs from the old one has
    loaded what it needs.
    """
    new, old = f"{prefix}.new", f"{prefix}.old"
    before = os.umask(0o022)
    try:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        _fill(new, prefix)
        if os.path.lexists(prefix):
            os.rename(prefix, old)
        os.rename(new, prefix)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise GpuctlError(f"cannot make {error.filename or prefix}: {error.strerror}") from error
    finally:
        os.umask(before)


def _fill(new: str, prefix: str) -> None:
    """Write an environment as `python -m venv` does (pyvenv.cfg of PEP 405), and all that belongs into it."""
    python = base_python()
    site = os.path.join(new, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
    os.makedirs(site)
    os.makedirs(f"{new}/bin")
    os.symlink(python, f"{new}/bin/python3")
    os.symlink("python3", f"{new}/bin/python")
    with open(f"{new}/pyvenv.cfg", "w", encoding="utf-8") as file:
        file.write(f"home = {os.path.dirname(python)}\ninclude-system-site-packages = false\n")
        file.write(f"version = {sys.version.split()[0]}\nexecutable = {python}\n")
    for source, name in (*_own(), *_others()):
        check_source(source)
        target = os.path.join(site, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(source, target)
        os.chmod(target, 0o755 if os.stat(source).st_mode & stat.S_IXUSR else 0o644)
    for script, where in SCRIPTS.items():
        module, _, name = where.partition(":")
        with open(f"{new}/bin/{script}", "w", encoding="utf-8") as file:
            file.write(_SCRIPT.format(prefix=prefix, module=module, name=name))
        os.chmod(f"{new}/bin/{script}", 0o755)  # noqa: S103 - everybody runs gpuctl
    # Without, every start would compile five times as long as it runs, for nobody but root may keep the result.
    inside = os.path.relpath(site, new)
    compileall.compile_dir(site, ddir=os.path.join(prefix, inside), quiet=2, rx=_UNUSED)


def _own() -> Iterator[tuple[str, str]]:
    """Yield the files of gpud and gpuctl, and where they belong in site-packages."""
    for package in (gpud, gpuctl):
        root = os.path.dirname(os.path.abspath(str(package.__file__)))
        for folder, below, names in os.walk(root, followlinks=True):  # the units are a link in a checkout
            below[:] = [name for name in below if name != "__pycache__"]
            for name in names:
                source = os.path.join(folder, name)
                yield source, os.path.relpath(source, os.path.dirname(root))


def _others() -> Iterator[tuple[str, str]]:
    """Yield the files of everything that gpud depends on, likewise. Raises GpuctlError."""
    seen: set[str] = set()
    wanted = list(NEEDED)
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in NEEDED:
                raise GpuctlError(f"the package {name} is not installed") from None
            continue  # for another Python, or another system
        if found.files is None:
            raise GpuctlError(
                f"nothing says which files belong to the package {name}",
                hint="install gpud into an environment of its own (python3 -m venv), and run the gpuctl in there",
            )
        wanted += [_normal(each) for each in found.requires or () if not re.search(r";.*\bextra\b", each)]
        for file in found.files:
            words = file.parts
            if ".." not in words and not os.path.isabs(str(file)) and "__pycache__" not in words:
                yield str(found.locate_file(file)), str(file)


def _normal(requirement: str) -> str:
    """Return the name in a requirement (PEP 508), as PEP 503 writes it."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def code_places(prefix: str) -> tuple[str, ...]:
    """Return where the code of an environment is: the interpreter, its library, and the environment itself."""
    return base_python(), sysconfig.get_paths()["stdlib"], prefix
