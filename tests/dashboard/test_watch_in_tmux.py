"""`gpuctl watch` under a shell in tmux: suspended and back, other sizes, and the screen as it was afterwards."""

import shutil
import subprocess
import sys
from functools import partial

import pytest
from gpud_process import until
from onlooker import ROOT, WITHIN_S

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Tmux:
    """A tmux server of its own, with one shell in one window."""

    def __init__(self, gpud):
        """Start it."""
        self._socket = str(gpud.folder / "tmux")
        kept = {key: value for key, value in gpud.environment.items() if key not in ("NO_COLOR", "TMUX")}
        environ = kept | {"PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", "PS1": "shell> ", "TERM": "xterm-256color"}
        size = ["-x", "100", "-y", "30"]
        shell = ["bash", "--noprofile", "--norc"]
        words = ["tmux", "-S", self._socket, "-f", "/dev/null", "new-session", "-d", *size, "--", *shell]
        subprocess.run(words, env=environ, cwd=gpud.work, check=True)

    def __call__(self, *words):
        """Return what tmux prints for a command of its own."""
        return subprocess.run(["tmux", "-S", self._socket, *words], capture_output=True, text=True, check=True).stdout

    def type(self, *keys):
        """Press keys."""
        self("send-keys", *keys)

    @property
    def screen(self):
        """What is on the screen."""
        return self("capture-pane", "-p")

    def until(self, shown):
        """Wait until the screen shows this."""
        try:
            until(lambda: shown in self.screen, WITHIN_S)
        except AssertionError:
            raise AssertionError(f"never shown: {shown}\n{self.screen}") from None

    def is_filled(self, lines):
        """Tell whether the screen has so many lines, the last of them that of the keys."""
        shown = self.screen.removesuffix("\n").split("\n")
        return len(shown) == lines and shown[-1].startswith(" q quit")

    @property
    def alternate(self):
        """Whether a program has the screen to itself."""
        return self("display-message", "-p", "#{alternate_on}").strip() == "1"


@pytest.fixture
def tmux(busy):
    """Serve a shell, in which the machine's gpuctl is `gpuctl`."""
    tmux = Tmux(busy)
    try:
        tmux.until("shell>")
        tmux.type(
            f'gpuctl() {{ {sys.executable} -m gpuctl --socket {busy.socket} "$@"; }}; clear; echo before', "Enter"
        )
        tmux.until("before")
        tmux.type("gpuctl watch", "Enter")
        tmux.until("train-b")
        yield tmux
    finally:
        tmux("kill-server")


def test_ctrl_z_gives_the_shell_its_screen_and_fg_goes_on(tmux):
    assert tmux.alternate
    tmux.type("C-z")
    tmux.until("Stopped")
    assert "before" in tmux.screen
    assert "train-b" not in tmux.screen
    assert not tmux.alternate
    tmux.type("fg", "Enter")
    tmux.until("train-b")
    assert tmux.alternate
    tmux.type("q")
    tmux.until("shell>")
    assert "before" in tmux.screen
    tmux.type("echo still echoed", "Enter")
    tmux.until("\nstill echoed")


def test_another_size_is_filled(tmux):
    for columns, lines in ((60, 12), (200, 50), (80, 24)):
        tmux("resize-window", "-x", str(columns), "-y", str(lines))
        until(partial(tmux.is_filled, lines))
        assert "train-a" in tmux.screen
