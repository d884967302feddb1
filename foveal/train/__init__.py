"""Learning from data. The package is itself the verb: `foveal.train(system, dataset, config)`."""

from foveal.verbs import make_callable

# A string, not an import: the report is written by a layer below, which the rest of this one knows nothing of.
make_callable(__name__, "foveal.report.training", "train")
