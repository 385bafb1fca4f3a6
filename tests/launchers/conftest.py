"""What tests of launchers share."""

pytest_plugins = ["workplace"]
