"""The pack as ComfyUI sees it: what it registers, names and explains, what it costs, what it survives."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.comfy.server import PACK_FOLDER, ROOT, ComfyServer
from tools.workflow_specs import EXAMPLE_VIDEO

LANGUAGES = ("en", "zh")


@pytest.fixture(scope="module")
def nodes(server: ComfyServer) -> dict[str, Any]:
    """The pack's entries of /object_info."""
    everything = server.get("/object_info")
    return {name: info for name, info in everything.items() if PACK_FOLDER in info["python_module"]}


def inputs(info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    groups = info["input"]
    specs = {**groups.get("required", {}), **groups.get("optional", {})}
    return {name: (spec[1] if len(spec) > 1 else {}) for name, spec in specs.items()}


def test_nothing_failed_to_load(server: ComfyServer) -> None:
    log = server.log()
    assert "IMPORT FAILED" not in log
    assert "nodes are missing" not in log


def test_every_node_is_documented(nodes: dict[str, Any]) -> None:
    assert len(nodes) >= 14
    for name, info in nodes.items():
        assert name.startswith("FlashVideo"), name
        assert info["category"].split("/")[0] == "FlashVideo", name
        assert info["display_name"].startswith("FlashVideo"), name
        assert info["description"], name
        assert len(info["search_aliases"]) >= 3, name
        without = [key for key, settings in inputs(info).items() if not settings.get("tooltip")]
        assert not without, f"{name}: no tooltip on {without}"
        assert all(info["output_tooltips"]), f"{name}: an output without tooltip"
        page = ROOT / "js" / "docs" / f"{name}.md"
        assert page.is_file(), f"no help page {page.name}"
        text = page.read_text()
        missing = [key for key in inputs(info) if f"`{key}`" not in text]
        assert not missing, f"{page.name} says nothing of {missing}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_input_is_named_in_each_language(nodes: dict[str, Any], server: ComfyServer, language: str) -> None:
    named = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())
    assert server.get("/i18n")[language]["nodeDefs"].items() >= named.items()
    for name, info in nodes.items():
        entry = named.get(name, {})
        assert entry.get("display_name"), f"{language}: {name}"
        assert entry.get("description"), f"{language}: {name}"
        for key in inputs(info):
            words = entry.get("inputs", {}).get(key, {})
            assert words.get("name"), f"{language}: {name}.{key}"
            assert words.get("tooltip"), f"{language}: {name}.{key}"
        for index in range(len(info["output"])):
            assert entry.get("outputs", {}).get(str(index), {}).get("name"), f"{language}: {name} output {index}"
    assert not set(named) - set(nodes), "names of nodes that do not exist"


def test_sockets_are_comfyuis_own(nodes: dict[str, Any], server: ComfyServer) -> None:
    """No type that only this pack has: every output fits nodes of others, every input is made by others."""
    everything = server.get("/object_info").values()
    others = [info for info in everything if info["python_module"].split(".")[0] in ("nodes", "comfy_extras")]
    known = {kind for info in others for kind in info["output"] if isinstance(kind, str)}
    widgets = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
    for name, info in nodes.items():
        specs = [spec for group in ("required", "optional") for spec in info["input"].get(group, {}).values()]
        taken = {kind for spec in specs if isinstance(spec[0], str) for kind in spec[0].split(",")}
        assert (taken | set(info["output"])) - widgets <= known, name


def test_seeds_stay_fixed(nodes: dict[str, Any]) -> None:
    """A seed that changes after each run would repaint the preview when Stage II is queued."""
    seeds = [settings for info in nodes.values() for key, settings in inputs(info).items() if key == "seed"]
    assert seeds
    assert all(settings["control_after_generate"] == "fixed" for settings in seeds)


def test_widgets_agree_with_their_steps(nodes: dict[str, Any]) -> None:
    """The editor snaps numbers to minimum + n steps: a default beside that grid would change on the first touch."""
    for name, info in nodes.items():
        for key, settings in inputs(info).items():
            if {"default", "min", "step"} <= settings.keys() and isinstance(settings["default"], int):
                assert (settings["default"] - settings["min"]) % settings["step"] == 0, f"{name}.{key}"


def test_the_table_of_nodes_is_true(nodes: dict[str, Any]) -> None:
    table = (ROOT / "nodes" / "README.md").read_text()
    for name, info in nodes.items():
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `{name}`")]
        missing = [key for key in inputs(info) if f"`{key}`" not in row]
        assert not missing, f"{name}: the table lacks {missing}"
        widgets = row.split("|")[3]
        places = [widgets.index(f"`{key}`") for key in inputs(info) if f"`{key}`" in widgets]
        assert places == sorted(places), f"{name}: the table has the widgets in another order"
        for key, default in re.findall(r"`(\w+)`=((?:\"[^\"]*\"|[^,\s|])+)", widgets):
            assert json.loads(default) == inputs(info)[key]["default"], f"{name}.{key}"


_SCRIPT = """
import asyncio, importlib.util, json, logging, sys, time
comfyui, root, broken = sys.argv[1:4]
sys.argv = ["main.py", "--cpu", "--base-directory", "."]
sys.path.insert(0, comfyui)
import comfy.options
comfy.options.enable_args_parsing()
logging.basicConfig(stream=sys.stderr)
if broken == "version":
    import comfyui_version
    comfyui_version.__version__ = "0.32.9"
else:
    import torch, nodes, server
    from aiohttp import web
    routes = web.RouteTableDef()
    server.PromptServer.instance = type("Server", (), {"routes": routes})
    sys.modules.update(dict.fromkeys(broken.split()))
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py", submodule_search_locations=[root])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
began, imported = time.process_time(), {*sys.modules}
spec.loader.exec_module(pack)
extension = asyncio.run(pack.comfy_entrypoint())
ids = [node.define_schema().node_id for node in asyncio.run(extension.get_node_list())]
seconds, before = time.process_time() - began, len(routes)
asyncio.run(extension.on_load())
imported = sorted({*sys.modules} - imported)
report = {"ids": ids, "seconds": seconds, "before": before, "imported": imported}
print(json.dumps({**report, "routes": [route.path for route in routes]}))
"""


def load_alone(server: ComfyServer, broken: str = "", base: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The pack in a process of its own; ``base`` has the user's folders, by default the server's."""
    command = [server.python, "-c", _SCRIPT, str(server.comfyui), str(ROOT), broken]
    return subprocess.run(command, capture_output=True, text=True, cwd=base or server.base, timeout=120, check=False)


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What the script says: the nodes' ids, the seconds of the processor, the modules that were not imported before,
    the server's routes before and after."""
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_pack_is_quick_and_changes_nothing(server: ComfyServer) -> None:
    pack = report_of(load_alone(server))
    assert pack["seconds"] < 0.5
    assert "pack.nodes" in pack["imported"]
    assert not {"accelerate", "diffusers", "peft", "transformers"} & set(pack["imported"])
    assert pack["before"] == 0, "routes are added when ComfyUI loads the pack"
    assert len(pack["routes"]) == 5
    assert all(path.startswith("/flashvideo/previews") for path in pack["routes"])


def test_the_example_video_is_put_where_load_video_looks(server: ComfyServer, tmp_path: Path) -> None:
    """Once, over nothing; where it cannot be, the pack loads all the same."""
    bundled = (ROOT / "workflows" / "input" / EXAMPLE_VIDEO).read_bytes()
    assert len(bundled) < 200_000
    assert EXAMPLE_VIDEO in server.get("/object_info/LoadVideo")["LoadVideo"]["input"]["required"]["file"][1]["options"]
    assert (server.base / "input" / EXAMPLE_VIDEO).read_bytes() == bundled
    (tmp_path / "input").write_bytes(b"no folder")
    done = load_alone(server, base=tmp_path)
    report_of(done)
    assert f"{EXAMPLE_VIDEO} is not in ComfyUI's input folder" in done.stderr
    (tmp_path / "input").unlink()
    (tmp_path / "input").mkdir()
    file = tmp_path / "input" / EXAMPLE_VIDEO
    file.write_bytes(b"mine")
    report_of(load_alone(server, base=tmp_path))
    assert file.read_bytes() == b"mine"


REFINE = "FlashVideoRefineVideo"
MODELS = [
    *("FlashVideoAttentionWindows", "FlashVideoLoadLora", "FlashVideoLoadStage1", "FlashVideoLoadStage2"),
    *("FlashVideoVerify", REFINE),
]
PLAYERS = ["FlashVideoCompare", "FlashVideoDecodeVideo", "FlashVideoScoreVideo", "FlashVideoVideoFrames", REFINE]


@pytest.mark.parametrize(
    ("broken", "families", "lost"),
    [
        ("einops", ["loaders", "refine_video", "verify", "windows"], MODELS),
        ("av", ["compare", "refine_video", "score", "video", "video_frames"], PLAYERS),
        ("diffusers peft accelerate", [], []),
    ],
)
def test_a_broken_dependency_costs_its_own_nodes_only(
    server: ComfyServer, nodes: dict[str, Any], broken: str, families: list[str], lost: list[str]
) -> None:
    done = load_alone(server, broken)
    assert set(nodes) - set(report_of(done)["ids"]) == set(lost)
    for family in families:
        (said,) = [line for line in done.stderr.splitlines() if f"the {family} nodes are missing" in line]
        assert f"because import of {broken}" in said
        assert "requirements.txt" in said


def test_an_old_comfyui_is_told_so(server: ComfyServer) -> None:
    done = load_alone(server, "version")
    assert done.returncode != 0
    assert "needs ComfyUI 0.33 or newer, this is 0.32.9" in done.stderr


def test_no_file_leaves_its_room() -> None:
    """The library imports nothing of ComfyUI; nodes import the library by relative names, and call no other node."""
    foreign = re.compile(r"^\s*(?:from|import) (?:comfy|folder_paths|nodes|server|latent_preview)\b", re.MULTILINE)
    absolute = re.compile(r"^\s*(?:from|import) flashvideo\b", re.MULTILINE)
    another_node = re.compile(r"\b[A-Z]\w+\.execute\(")

    def offenders(folder: Path, pattern: re.Pattern[str]) -> list[str]:
        return [str(file) for file in folder.rglob("*.py") if pattern.search(file.read_text())]

    assert not offenders(ROOT / "flashvideo", foreign)
    assert not offenders(ROOT / "nodes", absolute)
    assert not offenders(ROOT / "nodes", another_node)
