#!/bin/bash
#SBATCH --job-name=medtask-merge-surgery-purpose
#SBATCH --time=60
#SBATCH --partition=gpu
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=/data/surgery/runs/2026-11-29-1200/logs/merge.log
#SBATCH --account=radiology
#SBATCH --constraint=h100

umask 077
module load cuda
exec /opt/medtask/bin/python -m medtask merge /data/surgery/runs/2026-11-29-1200
