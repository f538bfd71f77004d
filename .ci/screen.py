"""Writes what an Xvfb started with -fbdir shows: screen.py FBDIR PICTURE [LEFT TOP RIGHT BOTTOM]. The file there is an X
window dump."""

import struct
import sys
from pathlib import Path

import numpy as np
from PIL import Image

dump = (Path(sys.argv[1]) / "Xvfb_screen0").read_bytes()
header = struct.unpack(">25I", dump[:100])
size, width, height, stride, colours = header[0], header[4], header[5], header[12], header[19]
pixels = np.frombuffer(dump, np.uint8, height * stride, size + colours * 12).reshape(height, stride // 4, 4)
left, top, right, bottom = map(int, sys.argv[3:7]) if len(sys.argv) > 3 else (0, 0, width, height)
Image.fromarray(pixels[top:bottom, left:right, 2::-1]).save(sys.argv[2])
