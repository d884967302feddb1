"""How probable 8-bit pixels are: distributions over the 256 levels of a channel, whose probabilities sum to one.

The one of a normal distribution is `level_log_probability` in distributions.py. A level below 0 or above 255 does not
exist: its probability is zero, and its logarithm -inf.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

TOP = 255  # the highest level


def logistic_log_probability(levels: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """ln P(level) of 8-bit levels, where a level has the mass that the logistic distribution puts between half a level
    below it and half a level above; the first and the last one have all that lies beyond:

        P(k) = s(b) - s(a),  a = (k - 1/2 - mean) / scale,  b = a + 1 / scale,  s the sigmoid

    Kingma et al. 2016, arXiv:1606.04934, equation 17; with the ends as in Salimans et al. 2017, arXiv:1701.05517.
    levels: 0 to 255, of any type; mean and the scale, whose logarithm is given, in levels too; what broadcasts
    together -> its shape, in nats.
    """
    levels = levels.to(mean)
    width = (-log_scale).exp()
    low = (levels - 0.5 - mean) * width
    # s(b) - s(a) = s(b) s(-a) (1 - e^(a - b)), no factor of which loses digits.
    below, above = logsigmoid(low + width), logsigmoid(-low)
    between = torch.log(-torch.expm1(-width))
    first, last = levels <= 0, levels >= TOP
    total = below.masked_fill(last, 0) + above.masked_fill(first, 0) + between.masked_fill(first | last, 0)
    return total.masked_fill((levels < 0) | (levels > TOP), -torch.inf)


def bernoulli_log_probability(levels: Tensor, logits: Tensor) -> Tensor:
    """ln P(level) of 8-bit levels, where P(k) is as p^v (1 - p)^(1 - v), v = k / 255 and p = sigmoid(logits).

    Cross-entropy with grey values v, which is often taken for a likelihood, lacks the term that lets probabilities sum
    to one (Loaiza-Ganem and Cunningham 2019, arXiv:1907.06845, for densities). Over levels it is that of a geometric
    series, P(k) = e^(k t) / sum_j e^(j t), t = logits / 255, which by the bits of j is the product of 1 + e^(2^i t), i
    from 0 to 7: the bits of a level are independent, with logits 2^i t. Nothing overflows or cancels, at t = 0 either.

    levels: whole numbers from 0 to 255, of any type; what broadcasts together -> its shape, in nats.
    """
    places = torch.arange(8, device=levels.device)
    bits = levels.long()[..., None] >> places & 1
    total = logsigmoid((2 * bits - 1) * 2**places * (logits / TOP)[..., None]).sum(-1)
    return total.masked_fill((levels < 0) | (levels > TOP), -torch.inf)
