"""Episodes of a wanderer in Memory Maze, in the files of the original's datasets:

python scripts/memory_maze_dataset.py OUT --size 9 --episodes 100
"""

import argparse
import sys
from pathlib import Path

import jax

from ssmrl.envs.memory_maze import SIZES, dataset


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="one .npz for each episode goes there")
    parser.add_argument("--size", type=int, default=9, choices=sorted(SIZES))
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.1, help="chance of going astray, a step")
    args = parser.parse_args()
    key = jax.random.key(args.seed)
    options = {"size": args.size, "noise": args.noise}
    try:
        written = dataset.write(args.folder, key, args.episodes, **options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.folder}: {args.episodes} episodes, {written} of them written now")
    return 0


if __name__ == "__main__":
    sys.exit(main())
