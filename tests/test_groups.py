"""How tests are spread over processes: what shares programs and fixtures shares one."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import group_of

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/test_scan.py::test_vmap[0-associative]", "tests/test_scan.py"),
        ("tests/test_scan.py::test_gru[gru]", "tests/test_scan.py"),
        ("tests/memory/test_starts.py::test_x[gru]", "gru"),
        ("tests/memory/test_platforms.py::test_x[cuda-block_gru, 1 layers]", "block_gru"),
        ("tests/memory/test_registry.py::test_s5", "tests/memory/test_registry.py"),
        ("tests/memory/test_registry.py::test_x[carry-pre]", "tests/memory/test_registry.py"),
    ],
)
def test_groups_are_files_and_memories(nodeid, group):
    assert group_of(nodeid) == group


def test_pytest_gives_a_group_to_one_process(tmp_path):
    """With the installed pytest and pytest-xdist: a mark for it, which is what they offer, has
    been without effect between two of their versions."""
    pytest.importorskip("xdist")
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    tests = "import pytest\n@pytest.mark.parametrize('x', range(6))\ndef test_x(x): pass\n"
    for name in "abcd":
        (tmp_path / f"test_{name}.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-n", "2", "-v", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(tmp_path), "-c", "/dev/null", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    ran = set(re.findall(r"\[(gw\d)\].* PASSED (\S*test_\w)\.py", done.stdout))
    assert len(ran) == 4 and {process for process, _ in ran} == {"gw0", "gw1"}, done.stdout
