"""What travels between gpuctl and gpud, where the socket is, and how a message is put into bytes."""
