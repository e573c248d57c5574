#!/bin/bash
# One training on all GPUs of several nodes, requeued until it is done: sbatch examples/slurm_hosts.sh
# docs/runs.md says what is split between them (Hosts), and what the exit codes mean.
#SBATCH --job-name=ssmrl-hosts
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=runs/slurm-%j.log
# Three minutes for the iteration under way and a checkpoint. Without B: it reaches the steps, which
# is where the training is.
#SBATCH --signal=USR1@180

# On a file system that all nodes share: runs/ is here.
cd "$SLURM_SUBMIT_DIR" || exit 1
source .venv/bin/activate
export JAX_COMPILATION_CACHE_DIR="${XDG_CACHE_HOME:-$HOME/.cache}/jax"
# Slurm's proxies, where a site has any, are not for the nodes among themselves.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

# One process on each node finds the others by what srun sets, and takes all GPUs of its node. If one
# dies the others notice, say so and end with 75; srun is not to kill them before.
# Settings may be given to sbatch: sbatch examples/slurm_hosts.sh memory=gru seed=1
srun --kill-on-bad-exit=0 python scripts/train.py agent=ppo memory=s5 \
    env=popgym/repeat_previous_easy agent.num_envs=512 total_steps=100_000_000 \
    devices=all resume=auto "$@"
code=$?

# 75: stopped by a signal, with a checkpoint. After a node has failed Slurm requeues by itself. Of
# several codes srun gives the greatest: where a process was killed that is 137, say, and not the 75 of
# those that noticed; it may have had no memory left, and would not have it the next time.
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
