"""From nothing to an agent that remembers: train, test on the original, draw the curve.

The same as, by hand:

    python scripts/train.py experiment=demo
    python scripts/evaluate.py run=runs/<id> video=true
    python scripts/evaluate.py run=runs/<id> env=popgym_original/repeat_previous_easy
"""

import sys
import time

from ssmrl.experiment import COMPONENTS, CONFIGS, train
from ssmrl.training.cli import compose_training, run_command
from ssmrl.training.config import EnvConfig, EvaluateConfig
from ssmrl.training.run_evaluation import evaluate_run, print_evaluation, print_videos

EXPERIMENT = "experiment=demo"
ORIGINAL = "popgym_original/repeat_previous_easy"
EPISODES = 128


def main() -> int:
    started = time.monotonic()
    print("RepeatPrevious: name the suit of the card shown three cards ago.")
    print("1.0 is perfect, -0.5 is guessing. Training PPO with an S5 memory:\n")
    config = compose_training([EXPERIMENT], COMPONENTS, CONFIGS)
    outcome = train(config, overrides=(EXPERIMENT,))
    if outcome.exit_code:
        return outcome.exit_code
    run = outcome.run.path
    print("\nThe greedy policy on new episodes, here and on the original popgym package:")
    for env in ("run", ORIGINAL):
        evaluation = EvaluateConfig(
            run=str(run), episodes=EPISODES, env=EnvConfig(env), video=env == "run"
        )
        print_videos(evaluate_run(evaluation, COMPONENTS, show=print_evaluation))
    print(f"Done in {time.monotonic() - started:.0f} s. In {run}: curve.png, video/, eval.json")
    print("\nTry next:")
    for line in (
        "scripts/train.py experiment=demo memory=none     # the same agent without a memory",
        "scripts/train.py experiment=demo memory=gru      # another memory",
        "scripts/train.py experiment=demo seeds=5         # five seeds in one program",
        f"scripts/plot.py {run}     # intervals and tables, for any number of runs",
        "scripts/train.py --help",
    ):
        print(f"  .venv/bin/python {line}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
