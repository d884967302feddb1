"""Pure functions of tensors."""

from foveal.ops.nms import batched_nms, nms, soft_nms
from foveal.ops.roi import roi_align, roi_pool

__all__ = ["batched_nms", "nms", "roi_align", "roi_pool", "soft_nms"]
