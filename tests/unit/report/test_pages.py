"""The refinement section's first clips as a page."""

from __future__ import annotations

import json
import re

from flashvideo.report import run_report
from tests.unit.report.oracle import SETTINGS, WEIGHTS, Oracle


def test_the_first_clips_can_be_looked_at(bench, tmp_path):
    """An oracle that is right: refined is what is true, and enlargements are less sharp."""
    run_report(bench(Oracle()), WEIGHTS, sections=["refinement"])
    page = (tmp_path / "report" / "page" / "index.html").read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    videos = {video["name"]: video for video in json.loads(text)["videos"]}
    assert list(videos) == ["refined", "bilinear", "Lanczos", "Source: low resolution", "True video: true"]
    frames = SETTINGS.clips * SETTINGS.stage1.num_frames
    assert {video["count"] for video in videos.values()} == {frames}, "one after the other"
    scores = {name: video["scores"] for name, video in videos.items()}
    assert scores["refined"]["psnr"] > scores["Lanczos"]["psnr"]
    assert scores["refined"]["sharpness"] > scores["bilinear"]["sharpness"]
