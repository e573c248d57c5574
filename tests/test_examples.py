"""The examples do what they say; each is imported from its file, as a reader would run it."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def allow_warnings_of_brax(test):
    """Marks a test: brax warns at its import, of JAXopt, and of its systems."""
    for warning in ("JAXopt is no longer:DeprecationWarning", "Brax System:UserWarning"):
        test = pytest.mark.filterwarnings(f"ignore:{warning}")(test)
    return test


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_has_a_test():
    tested = {"supervised", "nnx_bridge", "equinox_bridge", "brax_network", "recurrent_ppo"}
    tested |= {"python_api"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def notebook():
    return json.loads((EXAMPLES / "quickstart.ipynb").read_text())


def test_the_notebook_is_kept_without_what_it_printed():
    cells = [cell for cell in notebook()["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 6
    for cell in cells:
        compile("".join(cell["source"]), "quickstart.ipynb", "exec")
        assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    """In a kernel of its own, as Jupyter runs it; on two idle cores in less than three minutes."""
    import nbformat
    from nbclient import NotebookClient

    cells = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    NotebookClient(cells, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(
        output.get("text", "") + str(output.get("data", {}).keys())
        for cell in cells.cells
        for output in cell.get("outputs", ())
    )
    assert "changed by the first input: [True, True, True, False, False, False]" in printed
    assert "image/png" in printed and "image/gif" in printed
    answered = json.loads(printed.partition("answered ")[2].partition("]")[0] + "]")
    assert answered[3:] == [2, 0, 3, 1, 1, 2, 0]  # the cards of three steps before


def test_a_classifier_learns():
    assert example("supervised").train(steps=150) > 0.5  # chance is 0.25


@pytest.mark.parametrize("name", ["nnx_bridge", "equinox_bridge"])
def test_a_gradient_step_through_a_bridge_lowers_the_loss(name):
    assert example(name).main() > 0


def test_equinox_and_linen_compute_the_same():
    import jax
    import jax.numpy as jnp

    model = example("equinox_bridge").Recurrent("gru", inputs=3, outputs=2, key=jax.random.key(0))
    x, reset = jnp.ones((5, 3)), jnp.zeros(5, bool).at[0].set(True)
    carry, y = model(model.initialize_carry(), x, reset)
    want_carry, want = model.definition.apply(model.params, model.initialize_carry(), x, reset)
    jax.tree.map(np.testing.assert_array_equal, carry, want_carry)
    np.testing.assert_allclose(y, want @ model.head.weight.T + model.head.bias, rtol=1e-5)


@allow_warnings_of_brax
def test_a_brax_network_remembers_within_an_episode_only():
    import jax
    import jax.numpy as jnp

    module = example("brax_network")
    network = module.make_policy_network(2, 3)
    params = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 1, 3))
    reset = jnp.zeros((6, 1), bool).at[3].set(True)
    other = x.at[0].add(1.0)
    carry = module.initialize_carry(1)
    before, after = (network.apply(None, params, carry, obs, reset)[1] for obs in (x, other))
    assert (before[2] != after[2]).any()
    np.testing.assert_array_equal(before[3:], after[3:])


@pytest.mark.slow
@allow_warnings_of_brax
def test_a_brax_rollout_runs():
    rewards = np.asarray(example("brax_network").rollout(steps=25))
    assert rewards.shape == (25, 4) and np.isfinite(rewards).all()


@pytest.mark.slow
def test_ppo_learns_to_repeat():
    returns = np.asarray(example("recurrent_ppo").train(iterations=120))
    assert returns[:5].mean() < -0.4  # chance is -0.5
    assert returns[-5:].mean() > 0.3


@pytest.mark.slow
def test_the_door_from_python_leads_to_a_policy_that_remembers(tmp_path):
    module = example("python_api")
    run = module.train(run_dir=str(tmp_path / "run"))
    assert run.metrics["episode_return"][-1] > 0.9
    assert run.metrics["step"][-1] < 60_000  # stopped by the callback
    assert [module.play(run.policy(), bit) for bit in (0, 1)] == [0, 1]


# ------------------------------------------------------------------------------------ job scripts

TRAINING = """#!/bin/bash
# In place of Python: notes that it was started, and does what the line of that start says.
trap 'exit 75' TERM
echo "$@" >> started
doing=$(sed -n "$(wc -l < started)p" plan)
case $doing in
    wait) while true; do sleep 0.05; done ;;
    *) exit "$doing" ;;
esac
"""


@pytest.mark.parametrize(
    ("plan", "notice", "code", "starts"),
    [
        ("0", "false", 0, 1),
        ("1", "false", 1, 1),  # an error is not tried for ever
        ("75\n0", "false", 0, 2),  # somebody else's signal: the run goes on here
        ("wait", "test -e started", 75, 1),  # the machine is to go
    ],
)
def test_the_cloud_s_script_goes_on_until_the_run_is_done_or_the_machine_goes(
    plan, notice, code, starts, tmp_path
):
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(TRAINING)
    python.chmod(0o755)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/train.py").touch()
    (tmp_path / "plan").write_text(plan + "\n")
    own = {"CHECKOUT": str(tmp_path), "EXTRA": "", "NOTICE": notice, "EVERY": "0.2"}
    done = subprocess.run(
        ["bash", str(EXAMPLES / "cloud_gpu.sh"), "seed=3"],
        env=os.environ | own,
        check=False,
        timeout=60,
    )
    assert done.returncode == code
    started = (tmp_path / "started").read_text().splitlines()
    assert len(started) == starts
    assert all("resume=auto" in line and line.endswith("seed=3") for line in started)
