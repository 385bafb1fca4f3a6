"""gpud on other machines, by ssh."""
