"""Fails unless the pictures show something, and something that moves."""

import sys

import numpy as np
from PIL import Image

pictures = [np.asarray(Image.open(path).convert("RGB"), np.float32) for path in sys.argv[1:]]
for path, picture in zip(sys.argv[1:], pictures):
    if picture.std() < 5:
        sys.exit(f"{path} is blank: standard deviation {picture.std():.1f}")
for (a, b), path in zip(zip(pictures, pictures[1:]), sys.argv[2:]):
    change = np.abs(a - b).mean()
    print(f"{path}: mean change {change:.1f} of 255")
    if change < 1:
        sys.exit(f"{path} shows what the picture before it showed")
