"""Shapes are checked at run time under pytest, and only there."""

from jaxtyping import install_import_hook

# Before the first import of the package: the hook rewrites modules as they are loaded.
install_import_hook("ssmrl", "beartype.beartype")
