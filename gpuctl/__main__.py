"""gpuctl, from the command line."""

from gpuctl.interruption import leave_at_once


def main() -> None:
    """Run gpuctl; Ctrl-C is quiet from here on, and most of the time until a command begins goes into imports."""
    leave_at_once()
    from gpuctl import cli  # noqa: PLC0415 - see above

    cli.main()


if __name__ == "__main__":
    main()
