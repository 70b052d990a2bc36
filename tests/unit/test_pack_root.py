"""The folder as a ComfyUI pack, as far as it shows without ComfyUI."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def pack() -> ModuleType:
    spec = spec_from_file_location("pack_root", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_importing_the_root_needs_no_comfyui_and_no_torch() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT.parent)!r}); import importlib; "
    code += f"importlib.import_module({ROOT.name!r}); print('torch' in sys.modules or 'comfy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


def test_the_root_has_no_old_style_mappings() -> None:
    """Even an empty NODE_CLASS_MAPPINGS makes ComfyUI ignore the entry point."""
    module = pack()
    assert not hasattr(module, "NODE_CLASS_MAPPINGS")
    assert (ROOT / module.WEB_DIRECTORY).is_dir()


@pytest.mark.parametrize("version", ["0.33.0", "0.34.1", "1.0", "0.33.0rc1", "0.40"])
def test_versions_that_are_new_enough(version: str) -> None:
    pack().check_comfyui(version)


@pytest.mark.parametrize("version", ["0.32.9", "0.3.75", "0.0"])
def test_older_versions_are_refused(version: str) -> None:
    with pytest.raises(RuntimeError, match=r"needs ComfyUI 0\.33 or newer, this is"):
        pack().check_comfyui(version)


def test_nothing_that_the_registry_or_the_manager_refuses() -> None:
    """No code made of text, no install script, nothing fetched or installed: pip and the network are the user's."""
    files = [ROOT / "__init__.py", *(ROOT / "nodes").rglob("*.py"), *(ROOT / "flashvideo").rglob("*.py")]
    code = re.compile(r"(?<![\w.])(?:eval|exec)\(")
    fetching = re.compile(
        r"^\s*(?:import|from) (?:urllib(?!\.parse)|requests|httpx|subprocess|pip|huggingface_hub)\b"
        r"(?! import constants, try_to_load_from_cache$)",  # looks into the cache on disk, and nowhere else
        re.MULTILINE,
    )
    for pattern in (code, fetching):
        assert not [str(file) for file in files if pattern.search(file.read_text(encoding="utf-8"))]
    assert not [name for name in ("install.py", "prestartup_script.py") if (ROOT / name).exists()]
