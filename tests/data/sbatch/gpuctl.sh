#!/bin/bash
#GPUCTL --gpus 2 --time-limit 2h   # what this needs
#GPUCTL -n 'two words' --label team=vision -e A=1
#GPUCTL --gpu-memory 24G --retries 2
python train.py
