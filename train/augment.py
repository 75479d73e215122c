"""Augmentation on the device the images are on: pad and crop, flip."""

import torch
import torch.nn.functional as F
from torch import Tensor

from attrib.data import Batch


def augment(batch: Batch, draw: Tensor, *, pad: int, flip: bool) -> Batch:
    """The batch with every image shifted by up to ``pad`` pixels (zero-filled) and flipped with probability 1/2.

    draw: (N,3) in (0,1), random numbers for rows, columns and flip. Masks are dropped, since training uses none.
    """
    if not pad and not flip:
        return batch._replace(mask=None)
    image = batch.image
    count, _, height, width = image.shape
    shift = (draw[:, :2] * (2 * pad + 1)).long()
    rows = shift[:, :1] + torch.arange(height, device=image.device)
    columns = shift[:, 1:] + torch.arange(width, device=image.device)
    if flip:
        columns = torch.where(draw[:, 2:] < 0.5, columns.flip(1), columns)
    padded = F.pad(image, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    number = torch.arange(count, device=image.device)[:, None, None]
    # Crop as (N,H,W,C): permuted back to (N,C,H,W), the result is channels_last without a copy.
    cropped = padded[number, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return batch._replace(image=cropped, mask=None)
