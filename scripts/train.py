"""Train an agent: python scripts/train.py agent=ppo memory=s5 env=popgym/repeat_previous_easy"""

import sys

from ssmrl.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
