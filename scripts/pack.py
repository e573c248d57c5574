"""Put a run's agent into the zoo: python scripts/pack.py runs/<id> popgym/repeat_first_easy-s5"""

import argparse
import sys

from ssmrl.training.cli import run_command
from ssmrl.zoo import pack, size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("run", help="its folder")
    parser.add_argument("name", help="<suite>/<task>-<memory>")
    parser.add_argument("--seed-index", type=int, default=0, help="which of its seeds, from 0")
    parser.add_argument(
        "--step", type=int, help="the checkpoint of this step (default: the newest)"
    )
    parser.add_argument("--episodes", type=int, default=256, help="to evaluate it on")
    parser.add_argument(
        "--also", metavar="ENV", help="a second environment to evaluate it in: popgym_original/..."
    )
    options = parser.parse_args()
    path = pack(
        options.run,
        options.name,
        seed_index=options.seed_index,
        step=options.step,
        episodes=options.episodes,
        also=options.also,
    )
    print(f"{path}: {size(path):,} bytes, {size():,} with all others; python docs/generate.py next")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
