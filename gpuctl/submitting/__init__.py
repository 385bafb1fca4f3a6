"""What a job is asked for with, on the command line, in scripts and in files of many jobs."""
