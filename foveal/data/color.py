"""Operations on the colours of an image: (3, H, W) uint8 -> the same."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d


def adjust_brightness(image: Tensor, factor: float) -> Tensor:
    """Blend with black: 0 is black, 1 the image, above 1 brighter."""
    return to_uint8(image.float() * factor)


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    """Blend with the mean luminance: 0 is one grey, 1 the image."""
    return _blend(image, luminance(image).mean(), factor)


def adjust_saturation(image: Tensor, factor: float) -> Tensor:
    """Blend with the luminance: 0 is grey, 1 the image."""
    return _blend(image, luminance(image), factor)


def adjust_sharpness(image: Tensor, factor: float) -> Tensor:
    """Blend with a smoothed image, but for the outermost pixels: 0 is smooth, 1 the image."""
    if min(image.shape[1:]) < 3:
        return image
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]).div(13).expand(3, 1, 3, 3)
    smooth = image.float()
    smooth[:, 1:-1, 1:-1] = conv2d(image.float()[None], kernel, groups=3)[0]
    return _blend(image, smooth, factor)


def adjust_hue(image: Tensor, turn: float) -> Tensor:
    """Hue moved by `turn`, in turns of the colour circle; saturation and value of HSV stay.

    With v = max(r, g, b), chroma c = v - min(r, g, b) and hue h in sixths of a turn, where 0 is red:
    channel = v - c clamp(min(k, 4 - k), 0, 1),  k = (n + h) mod 6,  n = 5, 3, 1 for r, g, b.
    """
    red, green, blue = pixels = image.float()
    value, brightest = pixels.max(0)
    chroma = value - pixels.amin(0)
    hue = torch.stack([green - blue, blue - red, red - green]).gather(0, brightest[None])[0]
    hue = hue / chroma.clamp(min=1) + 2 * brightest + 6 * turn
    k = (torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1) + hue) % 6
    return to_uint8(value - chroma * k.minimum(4 - k).clamp(0, 1))


def posterize(image: Tensor, bits: int) -> Tensor:
    """Only the upper `bits` of the eight."""
    return image & (256 - 2 ** (8 - bits))


def solarize(image: Tensor, threshold: float) -> Tensor:
    """Values from the threshold on inverted."""
    return torch.where(image >= threshold, 255 - image, image)


def autocontrast(image: Tensor) -> Tensor:
    """Each channel stretched so that it goes from 0 to 255; a constant one stays."""
    pixels = image.float()
    low, high = pixels.amin((1, 2), keepdim=True), pixels.amax((1, 2), keepdim=True)
    return torch.where(high > low, to_uint8((pixels - low) * (255 / (high - low).clamp(min=1))), image)


def equalize(image: Tensor) -> Tensor:
    """Each channel mapped so that its histogram is as flat as it can be (the rule of PIL.ImageOps.equalize).

    new value of v = (step // 2 + number of pixels below v) // step,  step = (pixels - those of the top value) // 255
    """
    channels = []
    for channel in image:
        counts = channel.flatten().bincount(minlength=256)
        step = int(channel.numel() - counts[int(channel.max())]) // 255
        table = ((counts.cumsum(0) - counts + step // 2) // max(step, 1)).clamp(max=255).to(torch.uint8)
        channels.append(table[channel.long()] if step else channel)
    return torch.stack(channels)


def luminance(image: Tensor) -> Tensor:
    """(3, H, W) -> (1, H, W) float: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""
    return (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)


def _blend(image: Tensor, other: Tensor, factor: float) -> Tensor:
    """factor * image + (1 - factor) * other, in uint8."""
    return to_uint8(torch.lerp(other.expand(image.shape), image.float(), factor))


def to_uint8(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8)
