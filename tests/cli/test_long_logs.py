"""A log that was cut is shown as what is left of it."""

from cli.conftest import Gpuctl


def test_of_a_log_that_grew_too_long_the_end_is_shown_and_what_is_missing_is_said(a_gpud):
    gpuctl = Gpuctl(a_gpud("--simulate", "1xRTX4090", "--log-max", "4M"))
    cut = "[ $(stat -c %b $0) -lt 20000 ]"  # blocks of 512 bytes
    program = f"yes line | head -c 40M; until {cut}; do sleep 0.02; done; echo the-end"
    job = gpuctl.ok("submit", "-g", "0", "--", "sh", "-c", program, f"{gpuctl.state}/logs/1.1.log")
    assert job == "1"
    assert gpuctl("wait", job).returncode == 0

    shown = gpuctl("logs", job)

    assert shown.stdout.endswith("line\nthe-end\n")
    assert "\0" not in shown.stdout
    assert len(shown.stdout) < 12 << 20
    assert "MiB are missing here" in shown.stderr
    assert gpuctl.json("show", job)["attempts"][0]["reason"] == "it wrote more than 4 MiB: the log's head was dropped"
