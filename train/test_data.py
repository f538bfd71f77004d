"""What `data.py` takes and refuses: `python train/test_data.py`."""

import io
import json
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from data import Episodes


def write(path, actions):
    """A shard of one episode under `actions`."""
    frames = np.zeros((len(actions), 4, 4, 3), np.uint8)
    with tarfile.open(path, "w") as tar:
        for kind, value in (("frames.npy", frames), ("actions.npy", actions), ("json", {"seed": 7})):
            file = io.BytesIO()
            file.write(json.dumps(value).encode()) if kind == "json" else np.save(file, value)
            info = tarfile.TarInfo(f"00000007.{kind}")
            info.size = file.tell()
            file.seek(0)
            tar.addfile(info, file)


def test_actions_that_are_no_numbers_are_refused():
    with tempfile.TemporaryDirectory() as folder:
        actions = np.zeros((5, 8), np.float32)
        write(Path(folder) / "shard-000000.tar", actions)
        assert len(Episodes(folder).items) == 1
        for bad in (np.nan, np.inf, -1e9):
            actions[3, 2] = bad
            write(Path(folder) / "shard-000000.tar", actions)
            try:
                Episodes(folder)
            except SystemExit as error:
                assert "episode 7" in str(error) and folder in str(error)
            else:
                raise AssertionError(f"{bad} was taken")


if __name__ == "__main__":
    test_actions_that_are_no_numbers_are_refused()
