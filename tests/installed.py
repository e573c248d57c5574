"""What must hold in an environment with the wheel and its requirements alone: `make package`.

Run it from a folder that is no checkout; it needs no pytest.
"""

import importlib.util
import subprocess
import sys
from functools import partial
from pathlib import Path


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [str(Path(sys.executable).parent / "ssmrl"), *arguments]
    return subprocess.run(line, capture_output=True, text=True)


def main() -> None:
    import jax
    import jax.numpy as jnp

    import ssmrl
    from ssmrl.experiment import CONFIGS
    from ssmrl.memory import list_memories, make_memory

    assert "site-packages" in ssmrl.__file__, f"{ssmrl.__file__} is a checkout"
    for missing in ("hydra", "distrax", "matplotlib", "flashbax"):
        assert importlib.util.find_spec(missing) is None, f"{missing} is installed"
    assert (CONFIGS / "experiment" / "demo.yaml").is_file()
    assert (CONFIGS.parent / "benchmarks" / "published" / "popgym_gru.json").is_file()

    x, reset = jnp.ones((3, 2, 5)), jnp.zeros((3, 2), bool)
    for name in list_memories():
        memory = make_memory(name, features=8)
        start = partial(
            memory.init_with_output, carry=memory.initialize_carry((2,)), x=x, reset=reset
        )
        # One is computed, the others are only traced, which takes seconds instead of minutes.
        run = start if name == "s5" else partial(jax.eval_shape, start)
        assert run(jax.random.key(0))[0][1].shape == (3, 2, 8), name

    shown = command()
    assert shown.returncode == 0 and "ssmrl train" in shown.stdout, shown
    assert command("--version").stdout.startswith("ssmrl "), command("--version")
    train = command("train", "total_steps=10")
    assert train.returncode == 1, train
    said = train.stderr.splitlines()
    assert len(said) == 1 and said[0].endswith('pip install "ssmrl[train]"'), train
    print(f"{len(list_memories())} memories work, and {said[0]!r}")


if __name__ == "__main__":
    main()
