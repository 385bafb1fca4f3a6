#!/bin/bash
#SBATCH --partition=debug
cat > job.sh <<EOF
#!/bin/bash
#SBATCH --gres=gpu:8
EOF
sbatch job.sh
