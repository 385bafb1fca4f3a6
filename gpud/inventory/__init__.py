"""What GPUs there are, and what is seen on them."""
