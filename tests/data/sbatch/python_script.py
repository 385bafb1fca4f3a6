#!/usr/bin/env python3
#SBATCH --job-name=pyjob
#SBATCH --gpus=1
#SBATCH --output=%u-%N-%J.out
"""Train."""
import os
print(os.environ["SLURM_JOB_ID"])
