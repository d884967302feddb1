"""Convolution with the padding that TensorFlow calls "same", for weights that were trained with it."""

from torch import Tensor, nn
from torch.nn.functional import pad


class SameConv2d(nn.Conv2d):
    """(B, C, H, W) -> (B, out, ceil(H / stride), ceil(W / stride)), with as many zeros around as that takes.

    Half of them stand on each side; of an odd number, the right and the lower side have one more.
    """

    def forward(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [missing // 2, missing - missing // 2]
        return super().forward(pad(x, sides))
