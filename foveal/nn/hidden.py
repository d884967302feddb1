"""The classifier of AlexNet, ZFNet and VGG: two wide hidden layers, where most of their parameters are."""

from collections import OrderedDict

from torch import nn

from foveal.nn.init import init_for_relu, init_scores


def hidden_classifier(channels: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """Two times linear, relu, dropout, then linear. (B, channels) -> (B, outputs).

    Dropout hides half of what each hidden layer says (Hinton et al. 2012, arXiv:1207.0580), so it stands after the
    layer; torchvision's AlexNet hides the layer's input.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for n, width in ((1, channels), (2, hidden)):
        layers |= {f"fc{n}": nn.Linear(width, hidden), f"relu{n}": nn.ReLU(), f"drop{n}": nn.Dropout(dropout)}
    layers["output"] = output = nn.Linear(hidden, outputs)
    classifier = nn.Sequential(layers)
    init_for_relu(classifier)
    init_scores(output)
    return classifier
