"""How tests compile: most of their time goes into it, and little into what it makes.

Without LLVM's optimisations, without XLA's emitters of whole fusions and in one piece, programs
compile in a quarter of the time. The quick tests do so throughout (`conftest.py`), but for what
runs in a process of its own, as a user would start it.
"""

import os
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
