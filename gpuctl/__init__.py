"""gpuctl: the command line of gpud."""
