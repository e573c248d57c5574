"""The microscope: its tasks have the right answers, and what it measures is so."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.diagnostics import tasks
from ssmrl.diagnostics.measure import Curve, accuracy_on, eigenvalues, gradient_reach, summary
from ssmrl.diagnostics.theory import STATE_TRACKING, state_tracking
from ssmrl.memory import list_memories, make_memory

BATCH = 16


def drawn(task):
    batch = jax.jit(lambda key: vars(task.draw(key, task.train_length, BATCH)))(jax.random.key(0))
    return {name: np.asarray(leaf) for name, leaf in batch.items()}


def by_name(name):
    (task,) = [task for task in tasks.TASKS if task.name == name]
    return task


def asked(batch):
    """(time, entry, level) of every question."""
    for t, b in zip(*np.nonzero(batch["level"]), strict=True):
        yield t, b, batch["level"][t, b]


@pytest.mark.parametrize("task", tasks.TASKS, ids=lambda task: task.name)
def test_questions_exist_and_answers_are_classes(task):
    batch = drawn(task)
    assert batch["x"].shape[:2] == (task.train_length, BATCH) == batch["answer"].shape
    assert (batch["level"] > 0).any() and (batch["level"] >= 0).all()
    assert batch["answer"].min() >= 0 and batch["answer"].max() < task.classes


def test_the_first_symbol():
    batch = drawn(by_name("remember the first"))
    for t, b, level in asked(batch):
        assert level == t and batch["answer"][t, b] == batch["x"][0, b].argmax()


def test_k_steps_back():
    batch = drawn(by_name("report k back"))
    symbols, lags = batch["x"][..., : tasks.SYMBOLS], batch["x"][..., tasks.SYMBOLS :]
    for t, b, level in asked(batch):
        assert tasks.LAGS[lags[t, b].argmax()] == level
        assert batch["answer"][t, b] == symbols[t - level, b].argmax()


def test_associative_recall():
    batch = drawn(by_name("associative recall"))
    keys = batch["x"][..., : tasks.LOADS[-1]]
    values = batch["x"][..., tasks.LOADS[-1] : -1]
    for t, b, level in asked(batch):
        shown = {k.argmax(): v.argmax() for k, v in zip(keys[:8, b], values[:8, b], strict=True)
                 if k.any()}  # fmt: skip
        assert len(shown) == level and batch["x"][t, b, -1] == 1 and not values[t, b].any()
        assert batch["answer"][t, b] == shown[keys[t, b].argmax()]


def test_copy():
    batch = drawn(by_name("copy"))
    for t, b, level in asked(batch):
        assert level <= t < 2 * level
        assert batch["answer"][t, b] == batch["x"][t - level, b, : tasks.SYMBOLS].argmax()
        assert not batch["x"][t, b, : tasks.SYMBOLS].any()


def test_parity():
    batch = drawn(by_name("parity"))
    ones = batch["x"].argmax(-1)
    for t, b, level in asked(batch):
        assert level == t + 1 and batch["answer"][t, b] == ones[: t + 1, b].sum() % 2


def test_permutations_are_composed_in_order():
    """As 3x3 matrices, each new move from the right."""
    batch = drawn(by_name("permutation (S3)"))
    matrices = np.eye(3, dtype=int)[:, tasks.PERMUTATIONS].transpose(1, 0, 2)
    moves = batch["x"].argmax(-1)
    for b in range(BATCH):
        state = np.eye(3, dtype=int)
        for t in range(moves.shape[0]):
            state = state @ matrices[moves[t, b]]
            np.testing.assert_array_equal(state, matrices[batch["answer"][t, b]])


@pytest.mark.parametrize("name", ["associative recall", "copy"])
def test_a_task_of_one_length_says_which(name):
    with pytest.raises(ValueError, match="has sequences of 16 steps, not of 12"):
        by_name(name).draw(jax.random.key(0), 12, BATCH)


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [([1, 0.93, 0.92, 1], "pairs up to 2 "), ([0.92, 1, 1, 1], "pairs: none "), ([1] * 4, "to 8 ")],
)
def test_the_summary_goes_up_to_the_last_level_that_is_kept(accuracy, said):
    """Nine tenths of the way from chance, .25, to 1 is .925."""
    curve = Curve(np.array(tasks.LOADS), np.array(accuracy), 0.25)
    line = summary(by_name("associative recall"), curve)
    assert said in line and line.endswith(f"mean accuracy {np.mean(accuracy):.2f} (chance 0.25)")


def test_nothing_reaches_a_memory_that_is_none():
    lags = np.array([0, 1, 5])
    np.testing.assert_array_equal(gradient_reach(make_memory("none", features=8), lags), [1, 0, 0])


def test_the_reach_of_a_known_decay():
    """minGRU alone, untrained, forgets with σ(-z) of about a half: far less remains after 32."""
    memory = make_memory("mingru", features=16, layers=1, activation="none", glu="none")
    reach = gradient_reach(memory, np.array([0, 1, 32]))
    assert reach[0] == 1 and 0 < reach[2] < 1e-3 < reach[1]


def test_eigenvalues_are_the_decays():
    memory = make_memory("s5", features=8, layers=2)
    x, reset = jnp.zeros((1, 1, 8)), jnp.ones((1, 1), bool)
    params = memory.init(jax.random.key(0), memory.initialize_carry((1,)), x, reset)
    values = eigenvalues(memory, seed=0)
    inner = params["params"]["layers_0"]["memory"]
    rate = -np.exp(inner["log_decay"]) + 1j * np.asarray(inner["frequency"])
    np.testing.assert_allclose(values[:4], np.exp(rate * np.exp(inner["log_step"])), rtol=1e-5)
    assert values.shape == (8,)
    assert eigenvalues(make_memory("mingru", features=8)) is None
    assert eigenvalues(make_memory("gru", features=8)) is None


def test_every_memory_has_its_theory():
    assert set(STATE_TRACKING) == set(list_memories())
    assert "nothing is known" in state_tracking("a user's own")


@pytest.mark.slow
def test_what_a_gru_learns_and_a_memoryless_one_does_not():
    task = by_name("remember the first")
    gru = accuracy_on(make_memory("gru", features=32), task, steps=300)
    none = accuracy_on(make_memory("none", features=32), task, steps=300)
    assert gru.accuracy.mean() > 0.9
    # A quarter by chance; the standard error over 255 x 1024 answers is below 0.001.
    assert none.accuracy.mean() < gru.chance + 0.01


@pytest.mark.slow
def test_the_script_writes_a_picture_and_numbers(tmp_path):
    from ssmrl.experiment import COMPONENTS, diagnose
    from ssmrl.training.cli import diagnose_command
    from tests.test_docs import ROOT

    out = tmp_path / "s5.png"
    arguments = ["memory=s5", "memory.features=8", "steps=2", f"out={out}"]
    assert diagnose_command(arguments, COMPONENTS, ROOT / "configs", diagnose) == 0
    assert out.stat().st_size > 10_000
    data = json.loads(out.with_suffix(".json").read_text())
    assert len(data["tasks"]) == len(tasks.TASKS) and data["eigenvalues"]


def test_a_wrong_option_is_one_line(capsys):
    from ssmrl.experiment import COMPONENTS, diagnose
    from ssmrl.training.cli import diagnose_command
    from tests.test_docs import ROOT

    for arguments, said in (
        (["memory=s55"], "did you mean"),
        (["memory=s5", "memory.state_size=3"], "state_size"),
    ):
        assert diagnose_command(arguments, COMPONENTS, ROOT / "configs", diagnose) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") <= 2
