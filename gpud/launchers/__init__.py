"""Processes: started once, stopped whole, their ends never lost."""
