#!/bin/bash
# Train on two machines of eight GPUs each under Slurm. Not run by this project's tests, which have
# no Slurm: what it starts, `torchrun … examples/train_ranks.py`, is.
#
#   sbatch examples/slurm.sh MANIFEST RUN        # both on a file system that all machines share
#
# Slurm sends SIGTERM a minute before time is up (--signal): all ranks save, and the same command
# goes on from there.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --signal=TERM@60
#SBATCH --requeue
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" \
    examples/train_ranks.py "$1" "$2" --recipe smol-1.7b --set save_every=500
