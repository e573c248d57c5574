"""What cannot be had is said from shapes, before anything is begun."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ssmrl.experiment import COMPONENTS
from ssmrl.training import fit
from ssmrl.training.cli import train_command
from ssmrl.training.devices import device_memory
from ssmrl.training.errors import RunError, UsageError
from tests.training.stub_train import ROOT


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["memory.norm=foo"], 2, "memory=gru: unknown norm 'foo'; choose one of none, pre, post"),
        # 1e8 squared of 4 bytes each: 4e16 / 2^50, whatever is computed while a memory is made.
        *[
            (
                [f"memory={name}", "memory.features=1e8"],
                1,
                "memory.features=100000000 is too large: a matrix of its square takes 35.5 PiB",
            )
            for name in ("gru", "s5", "dss", "transformer")
        ],
        (["memory.features=1e12"], 1, "memory.features=1000000000000 is too large"),
        # The GRU behind it has [4e8, 3 * 128] of 4 bytes each: 6.144e11 / 2^30.
        (["agent.encoder=[400000000]"], 1, "float32[400000000, 384], 572 GiB: choose"),
        # A matrix of that size is computed while S5 is made: 8e16 / 2^50.
        (
            ["memory=s5", "memory.state_size=100000000"],
            1,
            "memory=s5: too large: Unable to allocate 71.1",
        ),
        (["total_steps=1e12"], 2, "agent=ppo: total_steps=1000000000000 takes 3906250016 updates"),
    ],
)
def test_a_choice_that_cannot_be_is_a_line(arguments, code, line, capsys):
    usual = ["memory=gru", "env=popgym/repeat_first_easy", "run_dir=here"]
    assert train_command([*usual, *arguments], COMPONENTS, ROOT / "configs") == code
    err = capsys.readouterr().err
    assert line in err and err.startswith("error: ") and len(err.splitlines()) == 1
    assert not Path("here").exists()


def test_dreamer_says_the_same(capsys):
    arguments = ["agent=dreamer", "agent.size=pico", "memory=s5", "memory.state_size=7"]
    assert train_command(arguments, COMPONENTS, ROOT / "configs") == 2
    assert "error: memory=s5: S5: state_size 7 must be a positive" in capsys.readouterr().err


def test_a_users_own_fault_keeps_its_traceback():
    with pytest.raises(ValueError, match="my own"), fit.refusals(memory="mine"):
        raise ValueError("my own")
    with pytest.raises(TypeError), fit.refusals(memory="mine"):
        jax.eval_shape(lambda x: jnp.ones(3) @ x, jnp.ones(4))


def test_a_width_must_fit_into_the_devices(monkeypatch):
    monkeypatch.setattr(fit, "device_memory", lambda: 1200)
    fit.check_width(30)  # a third of 30 squared, of 4 bytes each
    expected = "^memory.features=31 is too large: a matrix of its square takes 3.75 KiB, and there"
    with pytest.raises(RunError, match=expected):
        fit.check_width(31)
    fit.check_width(42, devices=2)
    with pytest.raises(RunError, match="and there is 2.34 KiB$"):
        fit.check_width(43, devices=2)
    monkeypatch.setattr(fit, "device_memory", lambda: None)
    fit.check_width(10**9)


def test_a_state_must_fit_into_the_devices(monkeypatch):
    monkeypatch.setattr(fit, "device_memory", lambda: 100)
    state = {"a": jax.ShapeDtypeStruct((19,), "float32"), "b": jax.ShapeDtypeStruct((24,), "int8")}
    fit.check_size(state)
    state["a"] = jax.ShapeDtypeStruct((20,), "float32")
    expected = (
        r"would take 104 B, and there is 100 B; the largest part is \['a'\], float32\[20\], 80"
    )
    with pytest.raises(RunError, match=expected):
        fit.check_size(state)
    fit.check_size(state, devices=2)
    state["b"] = jax.ShapeDtypeStruct((121,), "int8")
    expected = (
        r"take 201 B, and the 2 devices have 200 B; the largest part is \['b'\], int8\[121\], 121"
    )
    with pytest.raises(RunError, match=expected):
        fit.check_size(state, devices=2)
    state["b"] = jax.ShapeDtypeStruct((120,), "int8")
    fit.check_size(state, devices=2)
    monkeypatch.setattr(fit, "device_memory", lambda: None)
    fit.check_size(state)


def test_keys_have_a_size(monkeypatch):
    key = jax.eval_shape(lambda: jax.random.key(0))
    monkeypatch.setattr(fit, "device_memory", lambda: 8)
    fit.check_size(key)
    monkeypatch.setattr(fit, "device_memory", lambda: 7)
    with pytest.raises(
        RunError, match=r"would take 8 B, .*; the largest part is , key<fry>\[\], 8 B:"
    ):
        fit.check_size(key)


def test_memory_that_runs_out_while_training(monkeypatch):
    monkeypatch.setattr(fit, "device_memory", lambda: 8 * 2**30)
    expected = r"^out of memory of 8 GiB allocating 47\.7 GiB: choose fewer agent\.num_envs"
    with pytest.raises(RunError, match=expected), fit.out_of_memory():
        text = "RESOURCE_EXHAUSTED: Out of memory allocating 51200000000 bytes."
        raise jax.errors.JaxRuntimeError(text)
    monkeypatch.setattr(fit, "device_memory", lambda: None)
    with pytest.raises(RunError, match="^out of memory: choose fewer"), fit.out_of_memory():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no more")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), fit.out_of_memory():
        raise jax.errors.JaxRuntimeError("INTERNAL: another fault")


def test_numbers_that_programs_cannot_count_to():
    expected = "^too large: something here is 4000000000, and programs count in 32 bits"
    with pytest.raises(RunError, match=expected), fit.out_of_memory():
        jax.jit(lambda x: x + 4_000_000_000)(jnp.int32(0))
    with pytest.raises(OverflowError), fit.out_of_memory():
        raise OverflowError("cannot convert float infinity to integer")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *[(0, "0 B"), (999, "999 B"), (1000, "0.977 KiB"), (1023, "0.999 KiB"), (2048, "2 KiB")],
        # Where rounding would give a thousand, the next unit is taken, and there is none last.
        *[(999.4 * 2**10, "999 KiB"), (999.6 * 2**10, "0.976 MiB"), (1.5 * 2**30, "1.5 GiB")],
        *[(998 * 2**40, "998 TiB"), (1001 * 2**40, "0.978 PiB"), (999.4 * 2**50, "999 PiB")],
        *[(999.6 * 2**50, "1,000 PiB"), (2**60, "1,024 PiB")],
    ],
)
def test_sizes_are_readable(size, text):
    assert fit.format_bytes(size) == text


def test_refusals_name_the_part_that_refuses():
    from ssmrl.memory import make_memory

    expected = "^memory=s5: memory 's5' has no option 'x'"
    with pytest.raises(UsageError, match=expected), fit.refusals(memory="s5", agent="ppo"):
        make_memory("s5", x=1)


def test_refusals_of_environments_and_agents_go_by_their_keys():
    """Their folders have other names than the keys that choose them."""
    from ssmrl.agents.ppo import PPOConfig
    from ssmrl.envs import make

    with pytest.raises(UsageError, match="^env=mine: "), fit.refusals(env="mine", agent="ppo"):
        make("popgym/repeat_previous_easy", nothing=0)
    with pytest.raises(UsageError, match="^agent=ppo: "), fit.refusals(env="mine", agent="ppo"):
        PPOConfig(lr=-1.0)


def test_a_processor_has_the_memory_of_its_machine():
    """In bytes: what the system itself says in kilobytes, to a hundredth."""
    line = Path("/proc/meminfo").read_text().splitlines()[0]
    assert line.startswith("MemTotal:")
    assert device_memory() == pytest.approx(1024 * int(line.split()[1]), rel=0.05)
