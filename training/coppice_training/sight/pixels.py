"""Pixels as the vision encoder takes them."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation, a number a channel."""


def normalise(image: Image.Image) -> Tensor:
    """An RGB image -> [3, height, width] fp32."""
    channels = np.asarray(image, dtype=np.float32) / 255.0
    scaled = (channels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(scaled.transpose(2, 0, 1).copy())
