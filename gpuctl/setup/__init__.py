"""gpud, and what belongs to it, on this machine: started, installed, configured."""
