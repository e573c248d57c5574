"""How tests compile: most of their time goes into it, and little into what it makes.

Without LLVM's optimisations, without XLA's emitters of whole fusions and in one piece, programs
compile in a quarter of the time. The quick tests do so throughout (`conftest.py`), but for what
runs in a process of its own, as a user would start it.
"""

import os
import tempfile
from functools import partial

import jax
import pytest

_QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}
_SHIPPED = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}
if jax.__version_info__ < (0, 11):  # since then XLA has no other emitters, and aborts at the name
    _QUICK["xla_cpu_use_fusion_emitters"] = False
    _SHIPPED["xla_cpu_use_fusion_emitters"] = True

quick_jit = partial(jax.jit, compiler_options=_QUICK)
"""For programs that slow tests, too, compile for longer than they run them."""

shipped_jit = partial(jax.jit, compiler_options=_SHIPPED)
"""With XLA's defaults: for tests of what rounding does."""


def compile_quickly():
    """Makes `quick_jit`'s options those of all programs of this process, and not of its children.

    XLA reads its flags once, when jax makes its first backend.
    """
    flags = " ".join(f"--{name}={str(value).lower()}" for name, value in _QUICK.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {flags}")
        jax.devices()


def keep_programs() -> str | None:
    """Has this process and its children keep what they compile in a folder, and look there first.

    Many tests compile what another one has compiled, in another process or in a closure of their
    own. The programs' keys hold their options and XLA's flags.

    Returns:
        The folder, to be removed by the caller; None where the environment names one already.
    """
    folder = None
    if _CACHE not in os.environ:
        folder = os.environ[_CACHE] = tempfile.mkdtemp(prefix="ssmrl-tests-")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        # jax has read its environment by now.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_compilation_cache_dir", folder)
    return folder


_CACHE = "JAX_COMPILATION_CACHE_DIR"
