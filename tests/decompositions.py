"""Which decompositions of matrices a program asks for in batches."""

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

NAMES = frozenset(
    [
        "cholesky",
        "eig",
        "eigh",
        "geqrf",
        "hessenberg",
        "householder_product",
        "lu",
        "lu_solve",
        "ormqr",
        "qr",
        "schur",
        "svd",
        "tridiagonal",
        "tridiagonal_solve",
    ]
)


def batched_decompositions(function, *arguments) -> list[str]:
    """Those with more than one matrix to an operand: on a CPU with two threads they can hang."""
    found = []

    def search(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in NAMES and equation.invars[0].aval.ndim > 2:
                found.append(equation.primitive.name)
            for part in jax.tree.leaves(
                equation.params, is_leaf=lambda x: isinstance(x, (Jaxpr, ClosedJaxpr))
            ):
                if isinstance(part, ClosedJaxpr):
                    search(part.jaxpr)
                elif isinstance(part, Jaxpr):
                    search(part)

    search(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found
