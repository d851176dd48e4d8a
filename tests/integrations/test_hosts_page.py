"""docs/hosts.md is true: every block of it runs, alone, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "hosts.md").read_text()
BLOCKS = re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.hosts
@pytest.mark.parametrize("code", [pytest.param(code, id=title) for title, code in BLOCKS])
def test_every_block_runs(code, tmp_path):
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=200, env={**os.environ, **quiet})
    assert result.returncode == 0, result.stderr


def test_there_is_a_block_for_each_host():
    assert len(BLOCKS) == PAGE.count("```python") == 10
