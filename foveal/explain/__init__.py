"""Why a system answers what it answers. The package is itself the verb: `foveal.explain(system, image, method)`."""

from foveal.verbs import make_callable

make_callable(__name__, "foveal.explain.explanation", "explain")
