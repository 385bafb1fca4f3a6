"""What people asked to be told of, and how it reaches them."""
