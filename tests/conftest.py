"""One thread in each process: the tests run side by side, and sums come out in one order."""

import torch

torch.set_num_threads(1)
