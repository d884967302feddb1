"""How probable four systems that go pixel by pixel hold digits that they have not seen.

All are conditional, learn by one recipe, which was chosen by the val split, and tell the probability of each digit of
the test split exactly. The plain PixelCNN has a blind spot and the Row LSTM sees a triangle; the gated PixelCNN and the
Diagonal BiLSTM see all, but for one number of the latter.

claim     bits per dimension, in the mean over seeds: gated PixelCNN less than PixelCNN, Diagonal BiLSTM less than Row
          LSTM, which is less than PixelCNN
command   python recipes/likelihoods.py [NAME ...]
cost      about twelve minutes of one core
expected  1.72, 1.69, 1.67 and 1.66, in the order of NAMES
measured  docs/results.md
"""

import statistics
import sys
import tempfile
import time

import torch

import foveal

NAMES = ("pixelcnn_nano", "gated_pixelcnn_nano", "pixelrnn_row_nano", "pixelrnn_diagonal_nano")
SEEDS = (0, 1, 2)


def main() -> None:
    data = foveal.load_dataset("digits", "generate")
    for name in sys.argv[1:] or NAMES:
        found, started = [], time.process_time()
        for seed in SEEDS:
            torch.manual_seed(seed)
            system = foveal.create(name, labels=data.labels, conditional=True)
            with tempfile.TemporaryDirectory() as folder:
                config = foveal.TrainConfig(out=f"{folder}/run", seed=seed, quiet=True, report=False)
                foveal.train(system, data, config)
            found.append(foveal.evaluate(system, data.select("test")))
        seconds = (time.process_time() - started) / len(SEEDS)
        print(f"{name}, {seconds:.0f} s of processor time a run")
        for figure in found[0]:
            values = [figures[figure] for figures in found]
            told = ", ".join(f"{value:.4f}" for value in values)
            print(f"    {figure:12} {statistics.mean(values):.4f} ({told})", flush=True)


if __name__ == "__main__":
    main()
