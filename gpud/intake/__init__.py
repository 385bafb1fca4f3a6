"""From a message to what the loop decides about: all that can be wrong with it is said here."""
