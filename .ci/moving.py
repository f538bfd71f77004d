"""Fails unless the pictures show something, and something that moves; of an animation the first and the last frame count."""

import sys

import numpy as np
from PIL import Image

pictures = []
for path in sys.argv[1:]:
    image = Image.open(path)
    for frame in sorted({0, getattr(image, "n_frames", 1) - 1}):
        image.seek(frame)
        pictures.append((f"{path}, frame {frame}", np.asarray(image.convert("RGB"), np.float32)))
for name, picture in pictures:
    if picture.std() < 5:
        sys.exit(f"{name} is blank: standard deviation {picture.std():.1f}")
for (_, before), (name, picture) in zip(pictures, pictures[1:]):
    change = np.abs(before - picture).mean()
    print(f"{name}: mean change {change:.1f} of 255")
    if change < 1:
        sys.exit(f"{name} shows what the picture before it showed")
