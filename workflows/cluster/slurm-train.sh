#!/usr/bin/env bash
# Training on one or more nodes: torchrun per node, one process per GPU. The number of processes may
# change between two submissions: order and loss depend on the global batch only.
#
#   sbatch --nodes=2 slurm-train.sh
#
#SBATCH --job-name=svp-train
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# TERM to every process five minutes before the end: the step is finished and saved, exit 143.
#SBATCH --signal=TERM@300
set -euo pipefail

DATASET=${DATASET:-/data/refcoco}        # CHANGE
CACHE=${CACHE:-/scratch/caches/refcoco}  # CHANGE
RUNS=${RUNS:-/scratch/runs}              # CHANGE: on a file system that all nodes mount
INIT=${INIT:-/data/weights/GLaMM-GranD-Pretrained}
GPUS=${SLURM_GPUS_ON_NODE:-1}
PORT=${PORT:-29500}

# No `| head`: the pipe would break under scontrol, and with pipefail so would this script.
nodes=$(scontrol show hostnames "${SLURM_JOB_NODELIST:-localhost}")
head=${nodes%%$'\n'*}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
status=0
srun --kill-on-bad-exit=1 torchrun \
  --nnodes "${SLURM_NNODES:-1}" --nproc-per-node "$GPUS" \
  --rdzv-id "${SLURM_JOB_ID:-0}" --rdzv-backend c10d --rdzv-endpoint "$head:$PORT" \
  -m svp train \
  --from-cache "$CACHE" --dataset "$DATASET" --size paper --init "$INIT" \
  --runs "$RUNS" --resume auto --device cuda || status=$?
if ((status != 0 && status != 1 && status != 2 && status != 3)) && [[ -n ${SLURM_JOB_ID:-} ]]; then
  scontrol requeue "$SLURM_JOB_ID"  # stopped, not failed: the same command resumes
fi
exit "$status"
