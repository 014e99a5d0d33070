#!/usr/bin/env bash
# One cache by many independent processes: each array task takes shards that no other works on.
# Tasks may start late, be preempted or added by a second sbatch; requeued, a task joins again.
#
#   sbatch --array=0-15 slurm-precompute.sh
#
#SBATCH --job-name=svp-precompute
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# TERM two minutes before the end: svp gives its shards back and exits 143.
#SBATCH --signal=B:TERM@120
set -euo pipefail

DATASET=${DATASET:-/data/refcoco}        # CHANGE
CACHE=${CACHE:-/scratch/caches/refcoco}  # CHANGE: on a file system that all nodes mount
SAM=${SAM:-/data/weights/sam_vit_h_4b8939.pth}
ENCODER_WEIGHTS=${ENCODER_WEIGHTS:-/data/weights/dinov2-large}

export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
svp precompute \
  --dataset "$DATASET" --split train --out "$CACHE" --size paper \
  --sam-weights "$SAM" --encoder-weights "$ENCODER_WEIGHTS" \
  --join --shard-timeout 3600 --device cuda --quiet &
child=$!
trap 'kill -TERM $child' TERM INT
while true; do
  status=0
  wait "$child" || status=$?
  kill -0 "$child" 2>/dev/null || break  # the trap interrupts a wait: wait again until svp has ended
done
if ((status == 143)) && [[ -n ${SLURM_JOB_ID:-} ]]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}_${SLURM_ARRAY_TASK_ID:-0}"
fi
exit "$status"
