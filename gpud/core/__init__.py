"""Decides; does nothing. Every module here is pure: the same world and inputs give the same outcome."""
