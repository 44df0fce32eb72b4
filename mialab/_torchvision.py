"""Import torchvision beside a CPU build of torch.

PyPI's torchvision is compiled against the CUDA build of torch. Beside a CPU build its compiled part cannot be
loaded, so the operators ``nms`` and ``qnms`` are missing and ``import torchvision`` stops with "operator
torchvision::nms does not exist". The study needs its data sets and transforms, never these two operators:
declaring their schemas is enough. A matching pair imports at the first try and nothing is declared.

Use ``from mialab._torchvision import torchvision``.
"""

import torch

from mialab._validation import extra

try:
    with extra("images"):
        import torchvision
except RuntimeError as error:
    if "torchvision::nms does not exist" not in str(error):
        raise
    _library = torch.library.Library("torchvision", "DEF")  # schemas live as long as this object
    for _name in ("nms", "qnms"):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
