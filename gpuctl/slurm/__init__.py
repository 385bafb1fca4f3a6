"""What people have written for sbatch, read as options of gpuctl; only scripts with such lines import it."""
