"""Write ``docs/reference.md``, the command reference, from the command line's own parser.

Run from the repository root: ``python -m tools.make_reference``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
_HEAD = """# Command reference

Written by `tools/make_reference.py` from the program's own parser; `flashvideo COMMAND --help` says the same. Exit
codes: 0 done, 1 a failure (a full disk, no memory left on the device), 2 bad input, 130 interrupted.
"""


def reference() -> str:
    """The page as the parser gives it now, whatever this machine's environment says."""
    chosen = os.environ.pop("FLASHVIDEO_MODELS", None)
    try:
        from flashvideo.cli import build_parser

        parser = build_parser()
    finally:
        if chosen is not None:
            os.environ["FLASHVIDEO_MODELS"] = chosen
    return "\n".join([_HEAD, *_whole(parser)])


def _whole(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What stands before a command, then every command."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    shared = [action for action in parser._actions if action is not commands]
    yield from (f"## {parser.prog}", "", f"{parser.description}", "", *_table(shared))
    shown: dict[tuple[str, ...], str] = {}  # a table -> the heading that it stands under
    for listed in commands._choices_actions:
        command = commands.choices[listed.dest]
        words = [_name(action) for action in command._actions if not action.option_strings]
        needed = [f"{_name(action)} {_value(action)}" for action in command._actions if _is_needed_option(action)]
        yield from (f"## {listed.dest}", "", f"{_sentence(listed.help or '')}", "")
        yield from ("```sh", " ".join([command.prog, *words, *needed, "[options]"]), "```", "")
        if command.description:
            yield from (command.description, "")
        for group in command._action_groups:
            actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
            name = (group.title or "").removeprefix("positional ")
            table, title = tuple(_table(actions)), f"{listed.dest}: {name}"
            if table in shown:
                anchor = shown[table].lower().replace(":", "").replace(" ", "-")
                yield from (f"### {title}", "", f"The same as under [{shown[table]}](#{anchor}).", "")
            elif actions:
                shown[table] = title
                yield from (f"### {title}", "", *table)


def _table(actions: list[argparse.Action]) -> Iterator[str]:
    yield from ("| | |", "|---|---|")
    for action in actions:
        names = [f"`{name}{_value_after(action)}`" for name in action.option_strings] or [f"`{_name(action)}`"]
        yield f"| {', '.join(names)} | {_text(action)} |"
    yield ""


def _name(action: argparse.Action) -> str:
    if action.option_strings:
        return action.option_strings[0]
    name = str(action.metavar or action.dest)
    return f"[{name}]" if action.nargs == "?" else name


def _value(action: argparse.Action) -> str:
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


def _value_after(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return f" [{_value(action)}]" if action.nargs == "?" else f" {_value(action)}"


def _is_needed_option(action: argparse.Action) -> bool:
    return bool(action.option_strings) and action.required


def _text(action: argparse.Action) -> str:
    """The help, with the default where the help does not tell it."""
    text = (action.help or "") % {**vars(action), "prog": "flashvideo"}
    if action.option_strings and action.required:
        text = f"{text} (needed)"
    elif action.option_strings and action.nargs != 0 and action.default not in (None, []) and "default" not in text:
        text = f"{text} (default: {action.default})".strip()
    return text.replace("|", "\\|")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
