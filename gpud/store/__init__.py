"""SQLite: what was promised is here, and nothing else is believed after a restart."""
