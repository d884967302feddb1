"""Whether figures are better than chance: than those of a system that has learned nothing from the images."""

from collections.abc import Mapping
from math import sqrt

SIGMAS = 2.0  # standard deviations of a figure by chance within which no figure counts as better
LEAST_MAP50 = 0.01  # boxes drawn at random stay below


def classify_chance(figures: Mapping[str, float], counts: Mapping[str, int]) -> str | None:
    """Why the accuracy on images, `counts` of each class, is no better than that of one answer for all of them or of
    answers drawn at random; None where it is better, and for a split of one class or of so few images that not even an
    accuracy of 1 could be told from chance."""
    present = [count for count in counts.values() if count]
    images = sum(present)
    if len(present) < 2:
        return None
    label = max(counts, key=lambda name: counts[name])
    share = counts[label] / images
    noise = SIGMAS * sqrt(share * (1 - share) / images)
    if share + noise >= 1:
        return None
    # Rare classes may be worth the accuracy that they cost.
    random = 1 / len(present)
    balanced_noise = SIGMAS * random * sqrt(sum(random * (1 - random) / count for count in present))
    if figures["accuracy"] > share + noise or figures["balanced_accuracy"] > random + balanced_noise:
        return None
    return (
        f"accuracy {figures['accuracy']:.3f} is at chance: the answer {label!r} for all {images} images has {share:.3f}"
    )


def detect_chance(figures: Mapping[str, float], counts: Mapping[str, int]) -> str | None:
    """Why a detector finds nothing; None where it finds some of the objects, `counts` of each class."""
    if not sum(counts.values()) or figures.get("mAP50", 1.0) >= LEAST_MAP50:
        return None
    return f"mAP50 {figures['mAP50']:.3f}: of {sum(counts.values())} objects almost none is found"
