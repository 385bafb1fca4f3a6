"""What gpud does and says beside its queue."""
