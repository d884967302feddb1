"""Pure functions of tensors."""

from foveal.ops.nms import batched_nms, nms, soft_nms
from foveal.ops.regions import propose_regions
from foveal.ops.roi import roi_align, roi_pool

__all__ = ["batched_nms", "nms", "propose_regions", "roi_align", "roi_pool", "soft_nms"]
