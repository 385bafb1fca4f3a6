#!/bin/bash
python prepare.py
sbatch <<-"EOF"
	#!/bin/bash
	#SBATCH --gres=gpu:8
	python train.py
	EOF
