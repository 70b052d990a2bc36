"""What makes a section's numbers stale: any change of the code that they depend on, and no other."""

from __future__ import annotations

import pytest

from flashvideo.report.run import SECTIONS
from flashvideo.report.sources import Sources

FILES = {
    "__init__.py": '__version__ = "1"\n',
    "report/__init__.py": "from .section import measure\n",
    "report/section.py": '''
"""A section."""
from __future__ import annotations
from typing import TYPE_CHECKING
from .. import __version__
from ..method.solver import step
if TYPE_CHECKING:
    from ..method.types import Number

def measure(x: Number) -> float:
    """In whole numbers."""
    from pack.vae import decode  # when it is needed
    import pack.models.network
    return decode(step(x))
''',
    "method/__init__.py": "",
    "method/solver.py": "from . import table\n\ndef step(x):\n    return table.FIRST * x\n",
    "method/table.py": "FIRST = 2.0\n",
    "method/types.py": "Number = float\n",
    "method/other.py": "X = 1\n",
    "vae/__init__.py": "from .tiles import decode\n",
    "vae/tiles.py": "import pack.report.other_section\n\ndef decode(x):\n    return x\n",
    "report/other_section.py": "Y = 1\n",
    "models/network.py": "class Network:\n    width = 8\n",
}


@pytest.fixture
def digest(tmp_path):
    """``digest(file, old, new)``: of the section ``report.section`` with that change in one file."""

    def write_and_hash(file="__init__.py", old="", new=""):
        for name, text in FILES.items():
            path = tmp_path / "pack" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            assert name != file or old in text
            path.write_text(text.replace(old, new) if name == file and old else text)
        return Sources(tmp_path / "pack").digest("report.section")

    return write_and_hash


def test_closure_follows_imports(digest, tmp_path):
    digest()
    closure = Sources(tmp_path / "pack").closure("report.section")
    assert closure == {
        *("report.section", "method.solver", "method.table", "vae", "vae.tiles", "report.other_section"),
        "models.network",
    }
    with pytest.raises(ValueError, match=r"no module report\.nothing"):
        Sources(tmp_path / "pack").closure("report.nothing")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("report/section.py", "decode(step(x))", "step(decode(x))"),
        ("method/table.py", "2.0", "2.5"),
        ("method/solver.py", "FIRST * x", "FIRST + x"),
        ("vae/tiles.py", "return x", "return -x"),
        ("vae/__init__.py", "import decode", "import decode, decode as other"),
        ("report/other_section.py", "1", "2"),
        ("models/network.py", "8", "16"),
    ],
)
def test_a_change_of_what_it_depends_on_is_seen(digest, file, old, new):
    assert digest(file, old, new) != digest()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("report/section.py", "In whole numbers.", "In words."),
        ("report/section.py", '"""A section."""', ""),
        ("report/section.py", "# when it is needed", "# late"),
        ("method/table.py", "FIRST = 2.0", "FIRST = (\n    2.0  # a comment\n)"),
        ("models/network.py", "class Network:\n", 'class Network:\n    """Words."""\n\n'),
        ("method/other.py", "1", "2"),
        ("method/types.py", "float", "int"),
        ("__init__.py", "1", "2"),
    ],
)
def test_wording_layout_and_other_code_do_not_count(digest, file, old, new):
    assert digest(file, old, new) == digest()


def test_hash_is_the_same_in_every_version_of_python(digest):
    assert digest() == "58a5afd8a263fb512476e384dbb1445166ff05d16edde2ac1c57e1f76aab48ca"


MODELS = {
    *("method.stage1", "method.stage2", "method.schedules", "method.guidance", "method.degradation"),
    *(
        "models.network",
        "models.rope",
        "loading.load",
        "loading.model_store",
        "loading.text",
        "runs.chain",
        "runs.seeds",
    ),
    *(
        "vae.codec",
        "vae.tiling.walker",
        "vae.tiling.plan",
        "video.resize",
        "video.color_match",
        "report.models",
        "runs.seeds",
    ),
}
DRAWN = {"shapes.scenes", "shapes.render", "shapes.judge", "shapes.metrics", "report.bench", "report.results"}


@pytest.mark.parametrize("name", SECTIONS)
def test_sections_depend_on_all_that_decides_them(name):
    closure = Sources().closure(*SECTIONS[name].modules)
    assert closure >= DRAWN
    if SECTIONS[name].parts:
        assert closure >= MODELS
    else:
        assert not closure & {"models.network", "vae.codec", "runs.chain"}
    assert not closure & {"report.run", "report.markdown", "cli.report", "training.loop", "runs.pipeline"}
