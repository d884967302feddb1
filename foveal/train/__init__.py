"""Learning from data. The package is itself the verb: `foveal.train(system, dataset, config)`."""

from foveal.verbs import make_callable

make_callable(__name__, "foveal.train.loop", "train")
