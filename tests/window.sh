#!/usr/bin/env bash
# Opens the explorer under a virtual display with a software renderer, walks by script, and checks that two pictures of
# the window show a world that moves. Then the same without a display: the tour. The pictures stay in out/window.
set -euo pipefail
cd "$(dirname "$0")/.."
out=out/window
rm -rf "$out" && mkdir -p "$out"

cargo build --locked --example explore
explore=${CARGO_TARGET_DIR:-target}/debug/examples/explore
export VK_DRIVER_FILES=${VK_DRIVER_FILES:-$(ls /usr/share/vulkan/icd.d/lvp_icd*.json | head -1)}

printf '%s\n' '{"tick":0,"keys":["W"],"look":[3,0]}' '{"tick":400}' >"$out/walk.jsonl"
timeout 300 xvfb-run -a -s "-screen 0 1280x800x24" "$explore" --controls "$out/walk.jsonl" \
    --screenshot "$out/first.png" --after 4 --screenshot "$out/second.png" --after 6

"${PYTHON:-python3}" - "$out/first.png" "$out/second.png" <<'PY'
import sys
from PIL import Image, ImageChops, ImageStat
first, second = (Image.open(path).convert("RGB").crop((60, 60, 660, 600)) for path in sys.argv[1:])
colours = len(set(first.resize((60, 54)).getdata()))
moved = sum(ImageStat.Stat(ImageChops.difference(first, second)).mean) / 3
assert colours > 100, f"the window shows only {colours} colours"
assert moved > 2, f"the picture does not move: mean difference {moved:.2f}"
print(f"window: {colours} colours, mean difference {moved:.1f}")
PY

explore=$(realpath "$explore")
(cd "$out" && env -u DISPLAY -u WAYLAND_DISPLAY "$explore" --controls walk.jsonl 2>tour.log)
grep -q "No window (no display)" "$out/tour.log"
test -s "$out/dream-tour.gif" && test -s "$out/dream-tour.png"
