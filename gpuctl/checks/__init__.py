"""What `gpuctl doctor` looks at, by what it is about."""
