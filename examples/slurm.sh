#!/bin/bash
# One training on one GPU, requeued until it is done: sbatch examples/slurm.sh
# What the exit codes mean is in docs/runs.md.
#SBATCH --job-name=ssmrl
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=runs/slurm-%j.log
# Three minutes for the iteration under way and a checkpoint. Without B: it reaches the steps, which
# is where the training is.
#SBATCH --signal=USR1@180

cd "$SLURM_SUBMIT_DIR" || exit 1
source .venv/bin/activate
# A requeued job need not compile again.
export JAX_COMPILATION_CACHE_DIR="${XDG_CACHE_HOME:-$HOME/.cache}/jax"

# Settings may be given to sbatch: sbatch examples/slurm.sh memory=gru seed=1
srun python scripts/train.py agent=ppo memory=s5 env=popgym/repeat_previous_easy \
    total_steps=100_000_000 devices=all resume=auto "$@"
code=$?

# 75: stopped by a signal, with a checkpoint. Not for what ends otherwise: it might do so for ever.
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
