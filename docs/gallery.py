"""Films environments under random actions: python docs/gallery.py [name ... | --page]

Each environment under random actions: on the left what the agent sees, on the right the hidden
state.
"""

import re
import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from ssmrl.envs import list_envs, make
from ssmrl.envs.meta.joined import Joined

HERE = Path(__file__).parent
PICTURES = HERE / "gallery"
STEPS, SIDE = 24, 320
XLAND = ("r4_13x13", "memory_s8")  # a world whose tasks are rule sets, and one of MiniGrid's


def filmed() -> list[str]:
    """Of every family the easiest, bsuite's experiments, a Memory Maze, the small worlds, the tasks
    of in-context learning, and XLand's."""
    names = list_envs()
    popgym = [name for name in names if name.startswith("popgym/") and name.endswith("_easy")]
    bsuite = [name for name in names if name.startswith("bsuite/") and name.count("/") == 1]
    worlds = [name for name in names if name.startswith("worlds/")]
    meta = [name for name in names if name.startswith("meta/")]
    xland = [f"xland/{id_}" for id_ in XLAND]
    return [*popgym, *bsuite, "memory_maze/9x9", *worlds, *meta, *xland]


def caption(name: str) -> str:
    """What the environment is, from the first line of its module: "Name: what it is."."""
    env = make(name)[0]
    while hasattr(env, "env"):  # what is wrapped is what it is about
        env = env.env
    if isinstance(env, Joined):
        names = ", ".join(each.replace("_", " ") for each in env.names)
        return f"A task is one of these, seen through a random projection: {names}."
    line = sys.modules[type(env).__module__].__doc__.splitlines()[0]
    said = re.sub(r":class:`(\w+)`", r"\1", line.partition(": ")[2] or line)
    return said[0].upper() + said[1:]


def frames(name: str, steps: int = STEPS, seed: int = 0) -> np.ndarray:
    """An episode's beginning, uint8 `[frames, H, W, 3]`; ends where the episode does."""
    env, params = make(name)
    space = env.action_space(params)

    @jax.jit
    def film(key):
        reset_key, key = jax.random.split(key)
        _, state = env.reset(reset_key, params)

        def step(state, key):
            action_key, step_key = jax.random.split(key)
            action = space.sample(action_key)
            _, after, _, terminated, truncated, _ = env.step_env(step_key, state, action, params)
            return after, (env.render(state, params), terminated | truncated)

        return jax.lax.scan(step, state, jax.random.split(key, steps))[1]

    pictures, done = film(jax.random.key(seed))
    last = int(np.argmax(done)) + 1 if np.any(done) else steps
    return np.asarray(pictures[:last])


def write_gif(pictures: np.ndarray, path: Path) -> None:
    """Enlarged by a whole factor, five pictures a second."""
    factor = max(1, SIDE // pictures.shape[2])
    large = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    images = [Image.fromarray(picture).quantize(32) for picture in large]
    images[0].save(path, save_all=True, append_images=images[1:], duration=200, loop=0)


def main() -> int:
    """Write the films, all, those named or none (`--page`), and the page that shows all of them."""
    unknown = set(sys.argv[1:]) - {"--page", *filmed()}
    if unknown:
        print(f"not in the gallery: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    PICTURES.mkdir(exist_ok=True)
    lines = ["# Gallery", "", " ".join(__doc__.split("\n\n")[1].split()), ""]
    lines += ["`python docs/gallery.py` films them again; `xland/` needs the extra `xland`.", ""]
    for name in filmed():
        file = f"{name.replace('/', '-')}.gif"
        if name in sys.argv[1:] or not sys.argv[1:]:
            write_gif(frames(name), PICTURES / file)
            print(name, (PICTURES / file).stat().st_size)
        lines += [f"## {name}", "", caption(name), "", f"![{name}](gallery/{file})", ""]
    (HERE / "gallery.md").write_text("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
