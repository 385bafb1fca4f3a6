"""gpuctl, from the command line."""

from gpuctl.cli import main

if __name__ == "__main__":
    main()
