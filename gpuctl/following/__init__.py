"""One job, from here: its start, its output, its terminal, how far it is, and its end."""
