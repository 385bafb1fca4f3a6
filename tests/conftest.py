"""What tests of every part may use."""

pytest_plugins = ["budgets", "fakenvml.fixture", "gpud_process", "inventory.looking", "launchers.workplace"]
