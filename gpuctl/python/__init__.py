"""What the two clients for Python, `gpuctl.api` and `gpuctl.aio`, stand on."""
