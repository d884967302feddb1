"""Whether `foveal check` lists wrong labels: labels of a data set are changed at random, and its suspects are compared.

claim     with a tenth of the labels wrong, MNIST: precision and recall of the suspects above 0.9; photographs of
          CIFAR-10: precision above 0.8, recall above 0.6; of clean MNIST fewer than 0.3 % of the images are suspects
command   python recipes/label_noise.py --data FOLDER, which has a folder for each class, or test with these
cost      for 10,000 images about 20 s of one core by pixels; by the features of the network, which photographs need,
          two minutes more
expected  the claim
measured  docs/results.md

Labels that are wrong in the published data count as right, so the true precision is a little higher.
"""

import argparse
import time
from dataclasses import replace

import numpy as np

import foveal
from foveal.data import suspects
from foveal.data.check import check
from foveal.data.dataset import Dataset, LabelColumn


def planted(dataset: Dataset, rate: float, seed: int, shift: int | None) -> tuple[Dataset, set[str]]:
    """The data set with this share of labels replaced, and the names of these images.

    shift: how many places in the list of classes a wrong label is from the right one; None: any, with equal chance."""
    draw = np.random.default_rng(seed)
    labels = np.array([int(dataset.target(index).label) for index in range(len(dataset))])
    wrong = draw.permutation(len(labels))[: round(rate * len(labels))]
    by = draw.integers(1, len(dataset.labels), len(wrong)) if shift is None else shift
    labels[wrong] = (labels[wrong] + by) % len(dataset.labels)
    whole = dataset.targets.values.copy()
    whole[slice(None) if dataset.items is None else dataset.items] = labels
    return replace(dataset, targets=LabelColumn(whole)), {dataset.name(index) for index in wrong.tolist()}


def some(dataset: Dataset, each: int | None) -> Dataset:
    """So many images of each class, drawn by a fixed seed."""
    if each is None:
        return dataset
    labels = np.array([int(dataset.target(index).label) for index in range(len(dataset))])
    items = np.arange(len(labels)) if dataset.items is None else dataset.items
    draw = np.random.default_rng(0)
    chosen = [draw.permutation(items[labels == label])[:each] for label in range(len(dataset.labels))]
    return replace(dataset, items=np.sort(np.concatenate(chosen)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.0])
    parser.add_argument("--each", type=int, help="images of a class; default all of the test split")
    parser.add_argument("--shift", type=int, help="always this many classes away; default any other class")
    options = parser.parse_args()
    dataset = some(foveal.load_dataset(options.data).evaluation_split(), options.each)
    threshold, suspects.WRONG = suspects.WRONG, 0.0  # rank all labels, not only those that check names
    for rate in options.rates:
        noisy, wrong = planted(dataset, rate, 1, options.shift)
        started = time.process_time()
        found = check(noisy)
        seconds = time.process_time() - started
        ranked = [suspect.name for suspect in found.suspects]
        flagged = sum(suspect.wrong > threshold for suspect in found.suspects)
        print(f"{len(wrong):,} of {len(dataset):,} labels wrong: {flagged} suspects, {seconds:.0f} s of processor time")
        for count in (flagged, len(wrong), len(wrong) // 2) if wrong and flagged else ():
            hits = len(wrong.intersection(ranked[:count]))
            print(f"  first {count:,}: precision {hits / count:.3f}, recall {hits / len(wrong):.3f}")
        for note in found.notes:
            if "label" in note:
                print(f"  {note}", flush=True)


if __name__ == "__main__":
    main()
