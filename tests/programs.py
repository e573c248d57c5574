"""What is in a traced program."""

import jax

DECOMPOSITIONS = {
    "cholesky",
    "eig",
    "eigh",
    "geqrf",
    "hessenberg",
    "householder_product",
    "lu",
    "ormqr",
} | {"qr", "schur", "svd", "tridiagonal"}


def equations(jaxpr):
    """All equations of a jaxpr, those of inner ones included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)  # closed or not
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def batched_decompositions(function, *arguments) -> list[str]:
    """Decompositions of more than one matrix at once: on a CPU with two threads they can hang."""
    return [
        equation.primitive.name
        for equation in equations(jax.make_jaxpr(function)(*arguments).jaxpr)
        if equation.primitive.name in DECOMPOSITIONS and equation.invars[0].aval.ndim > 2
    ]
