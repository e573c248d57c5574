#!/bin/bash
# One training on a cloud machine with GPUs that may be taken away: run it as the machine's startup
# script, or by hand. It installs what is missing, continues the newest run of the same settings, and
# turns the cloud's notice of an eviction into the SIGTERM that ends a run with a checkpoint.
#
#   REPOSITORY=https://… DISK=/mnt/runs examples/cloud_gpu.sh memory=gru seed=1
#
# What is given are settings of train.py. What may be set in the environment:
#   REPOSITORY  where to clone from, unless this is a clone
#   CHECKOUT    where the clone is, or is to be               ($HOME/ssmrl, or the clone it lies in)
#   DISK        a disk that outlives the machine: runs and compiled programs ($CHECKOUT)
#   EXTRA       what of jax to install: cuda, tpu, or nothing for a CPU       (cuda)
#   NOTICE      a command that succeeds once the machine is to go             (asks the three clouds)
#   EVERY       seconds between looking                                       (5)
# What the exit codes mean is in docs/runs.md: 0 done, 75 evicted, all else is an error in the log.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -f "$here/scripts/train.py" ]; then default=$here; else default=$HOME/ssmrl; fi
CHECKOUT=${CHECKOUT:-$default}
DISK=${DISK:-$CHECKOUT}
EXTRA=${EXTRA-cuda}
EVERY=${EVERY:-5}

metadata() { curl --silent --fail --max-time 2 "$@"; }

# Each cloud says it in its own way, at an address that only its machines have:
# Google half a minute before, Amazon two minutes before, Azure half a minute before.
is_to_go() {
    if [ -n "${NOTICE:-}" ]; then
        bash -c "$NOTICE"
        return
    fi
    local token
    metadata --header "Metadata-Flavor: Google" \
        http://metadata.google.internal/computeMetadata/v1/instance/preempted 2>/dev/null |
        grep --quiet TRUE && return 0
    token=$(metadata --request PUT --header "X-aws-ec2-metadata-token-ttl-seconds: 60" \
        http://169.254.169.254/latest/api/token) &&
        metadata --header "X-aws-ec2-metadata-token: $token" \
            http://169.254.169.254/latest/meta-data/spot/instance-action >/dev/null && return 0
    metadata --header "Metadata: true" \
        "http://169.254.169.254/metadata/scheduledevents?api-version=2020-07-01" |
        grep --quiet '"EventType":"Preempt"'
}

install() {
    if [ ! -f "$CHECKOUT/scripts/train.py" ]; then
        git clone "${REPOSITORY:?says where to clone from}" "$CHECKOUT" || return
    fi
    cd "$CHECKOUT" || return
    [ -x .venv/bin/python ] && return # it was installed before
    python3 -m venv .venv || return
    .venv/bin/python -m pip install --quiet --editable ".[train,popgym${EXTRA:+,$EXTRA}]" || {
        rm -rf .venv # half an installation would pass for a whole one
        return 1
    }
}

install || exit 1
cd "$CHECKOUT" || exit 1
if [ "$EXTRA" = cuda ]; then
    # JAX would train on the CPU, with a warning that nobody reads.
    nvidia-smi --list-gpus || { echo "error: this machine has no GPU; EXTRA= for a CPU" >&2; exit 1; }
    export JAX_PLATFORMS=cuda
fi
mkdir -p "$DISK/runs" || exit 1
export JAX_COMPILATION_CACHE_DIR=$DISK/jax # a machine that goes on need not compile again
train=$CHECKOUT/scripts/train.py
export PYTHONPATH=$CHECKOUT${PYTHONPATH:+:$PYTHONPATH}
python=$CHECKOUT/.venv/bin/python
cd "$DISK" || exit 1 # runs/ lies there

evicted=
told_to_stop() { evicted=yes; [ -n "${training:-}" ] && kill -TERM "$training" 2>/dev/null; }
trap told_to_stop TERM INT

while true; do
    "$python" "$train" agent=ppo memory=s5 env=popgym/repeat_previous_easy \
        total_steps=100_000_000 devices=all resume=auto "$@" &
    training=$!
    while kill -0 "$training" 2>/dev/null; do
        # A second signal would change nothing, but one is enough.
        if [ -z "$evicted" ] && is_to_go; then told_to_stop; fi
        sleep "$EVERY"
    done
    wait "$training"
    code=$?
    # 75: stopped by a signal, with a checkpoint. By ours, the machine goes; by another's, the run
    # goes on here. Not for what ends otherwise: it might do so for ever.
    if [ "$code" -ne 75 ] || [ -n "$evicted" ]; then break; fi
done
exit "$code"
