"""What tests of every part may use."""

pytest_plugins = ["fakenvml.fixture", "gpud_process"]
