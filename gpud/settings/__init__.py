"""Every setting that there is, where it can be said, and what is in force."""
