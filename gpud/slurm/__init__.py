"""What a script with `#SBATCH` lines finds of Slurm in its job: variables, and `srun` and its like on PATH.

The programs run under the standard library alone, without gpud's own modules, so that a step starts quickly.
"""
