"""What a node's input was made from: its ancestors in the prompt, and a signature of them that ignores node numbers."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...flashvideo.checkpoints.files import fingerprint

Node = dict[str, Any]  # {"class_type": ..., "inputs": {...}}, as in an API-format workflow
Lookup = Callable[[str], Node]

_DIGITS = 32


def is_link(value: Any) -> bool:
    """Whether an input's value is ``[node id, output index]``."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def ancestors(link: list[Any], lookup: Lookup) -> dict[str, Node]:
    """All nodes that a link's value depends on, by id; only what a prompt needs of each."""
    nodes: dict[str, Node] = {}
    left = [link[0]]
    while left:
        name = left.pop()
        if name in nodes:
            continue
        node = lookup(name)
        nodes[name] = {"class_type": node["class_type"], "inputs": dict(node["inputs"])}
        left += [value[0] for value in node["inputs"].values() if is_link(value)]
    return nodes


def signature(value: Any, lookup: Lookup, changed: Callable[[Node], Any] = lambda node: None) -> str:
    """A digest of what an input's value is made from: classes, widgets and wiring, not the numbers of the nodes.

    Args:
        value: a link, or a plain widget value.
        changed: tells of a node whose result depends on more than its inputs, such as a file's content.
    """
    digests: dict[str, Any] = {}

    def digest(item: Any) -> Any:
        if not is_link(item):
            return {"value": item}
        name, output = item
        if name not in digests:
            node = lookup(name)
            inputs = {key: digest(v) for key, v in sorted(node["inputs"].items())}
            digests[name] = digest_of([node["class_type"], inputs, changed(node)])
        return {"from": digests[name], "output": output}

    return digest_of(digest(value))


def digest_of(value: Any) -> str:
    """32 hexadecimal digits of a plain value."""
    text = json.dumps(value, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def content_mark(node: Node) -> Any:
    """What ComfyUI's own cache asks a node about its files: ``fingerprint_inputs``, or ``IS_CHANGED`` of older nodes.

    A node that fails or always counts as changed gets a mark that never repeats.
    """
    from comfy_api.internal import first_real_override

    import nodes as host_nodes  # ComfyUI's registry; absolute, so never this folder

    kind = host_nodes.NODE_CLASS_MAPPINGS.get(node["class_type"])
    if kind is None:
        return None
    if hasattr(kind, "GET_BASE_CLASS"):  # a V3 node
        ask = first_real_override(kind, "fingerprint_inputs")
    else:
        ask = getattr(kind, "IS_CHANGED", None)
    if ask is None:
        return None
    try:
        mark = ask(**{key: None if is_link(v) else v for key, v in node["inputs"].items()})
    except Exception:  # another pack's code: like ComfyUI, take the node for changed
        return uuid.uuid4().hex
    return uuid.uuid4().hex if mark != mark else mark  # NaN


def content_and_models(node: Node) -> Any:
    """:func:`content_mark`, and what tells the model files that a node names from others of their names."""
    import folder_paths  # ComfyUI's

    names = [value for value in node["inputs"].values() if isinstance(value, str)]
    paths = [folder_paths.get_full_path(kind, name) for kind in folder_paths.folder_names_and_paths for name in names]
    return [content_mark(node), sorted({fingerprint([Path(path)]) for path in paths if path and Path(path).is_file()})]
