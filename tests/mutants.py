"""Injects the known mistakes of a re-implementation, one at a time, and checks that a test fails for each.

The mistakes are those of the golden data's list (and a few more of the same kind). Each is a change of one place in a
copy of the package; the tests named with it run against that copy.

    python -m tests.mutants [NAME ...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutant:
    """A mistake: ``old`` becomes ``new`` in ``file`` (once), and ``tests`` must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


_TRANSFORMER = "tests/unit/models/test_golden.py"
_SAMPLERS = "tests/unit/method/test_golden.py"
_SAMPLING = "tests/unit/method/test_sampling.py"
_PIPELINE = "tests/unit/runs/test_golden.py"
_STAGE2 = "flashvideo/method/stage2.py"
_NETWORK = "flashvideo/models/network.py"
_LAYER = "flashvideo/models/layer.py"
_SOURCE = "flashvideo/loading/source.py"
_REPORT, _REPORT_TESTS = "flashvideo/report/models.py", "tests/unit/report/test_models.py"

_OPTION = "tests/unit/cli/test_options.py::test_an_option_changes_what_it_should_and_nothing_else[generate {}]"
_OPTIONS = "flashvideo/cli/options.py"
_GIVEN = 'value = getattr(options, name.replace("-", "_"), None)'

MUTANTS = (
    Mutant("lora-ignored", _SOURCE, "if not part.lora:\n", "if True:\n", _TRANSFORMER),
    Mutant(
        "lora-not-in-modulation",
        _SOURCE,
        "if not part.lora:\n",
        'if not part.lora or "adaLN" in part.name:\n',
        _TRANSFORMER,
    ),
    Mutant("final-norm-skipped", _NETWORK, "self.out_norm(self.final_norm(", "self.out_norm((", _TRANSFORMER),
    Mutant(
        "rotary-axes-swapped",
        "flashvideo/models/rope.py",
        "enumerate(zip((frames, height, width), rope_axis_dims(head_dim), strict=True))",
        "zip((0, 2, 1), zip((frames, width, height), rope_axis_dims(head_dim), strict=True), strict=True)",
        _TRANSFORMER,
    ),
    Mutant(
        "exact-gelu",
        _LAYER,
        'F.gelu(hidden, approximate="tanh")',
        'F.gelu(hidden, approximate="none")',
        _TRANSFORMER,
    ),
    Mutant(
        "exact-gelu-in-place",
        _LAYER,
        'gelu_(hidden, approximate="tanh")',
        'gelu_(hidden, approximate="none")',
        _PIPELINE,
    ),
    Mutant(
        "exact-gelu-in-training",
        _LAYER,
        'F.gelu(hidden, approximate="tanh")',
        'F.gelu(hidden, approximate="none")',
        _TRANSFORMER,
    ),
    Mutant(
        "small-eps-in-block-norms",
        "flashvideo/models/transformer.py",
        "norm_eps=norm_eps,",
        "norm_eps=1e-6,",
        _TRANSFORMER,
    ),
    Mutant(
        "no-frame-count-embedding",
        _NETWORK,
        "if self.frame_count_embedding is not None:",
        "if False:",
        _TRANSFORMER,
    ),
    Mutant(
        "wrong-frame-count",
        _NETWORK,
        "torch.full_like(timestep, frame_count,",
        "torch.full_like(timestep, 3 * frame_count,",
        _TRANSFORMER,
    ),
    Mutant(
        "no-noise-step-embedding",
        _NETWORK,
        "embedding = embedding + self.noise_step_embedding(noise_step, dtype)",
        "pass",
        _TRANSFORMER,
    ),
    Mutant(
        "guidance-from-the-step-counter",
        "flashvideo/method/stage1.py",
        "return dynamic_guidance(timestep, num_steps, scale, exponent)",
        "return smooth_guidance(step, num_steps, scale, exponent)",
        _SAMPLERS,
    ),
    Mutant(
        "guidance-in-single-precision",
        "flashvideo/method/guidance.py",
        "math.cos(math.pi * progress**exponent)",
        "float(torch.cos(torch.tensor(math.pi) * torch.tensor(progress) ** exponent))",
        _SAMPLERS,
    ),
    Mutant(
        "no-snapping", "flashvideo/method/schedules.py", "self.snapped.double()", "self.alphas[:-1].double()", _SAMPLERS
    ),
    Mutant(
        "table-indexed-by-the-timestep",
        "flashvideo/method/schedules.py",
        "index = (noisy[:, None] - table[None]).abs().argmin(dim=1)",
        "index = timesteps",
        _SAMPLERS,
    ),
    Mutant(
        "one-draw-a-step",
        _SAMPLERS,
        "return [draws[0], *draws[2::2]]",
        "return list(draws[: (len(draws) + 1) // 2])",
        _SAMPLERS,
    ),
    Mutant(
        "degradation-with-the-shift-3-table",
        "flashvideo/method/schedules.py",
        "zero_snr_table().to(",
        "zero_snr_table(3.0).to(",
        _SAMPLERS,
    ),
    Mutant(
        "latent-scales-swapped",
        "flashvideo/method/degradation.py",
        "STAGE2_LATENT_SCALE = 1.15258426",
        "STAGE2_LATENT_SCALE = 0.7",
        _SAMPLERS,
    ),
    Mutant(
        "flow-backwards",
        "flashvideo/method/schedules.py",
        "return 1000 - 1000 * time",
        "return 1000 * time",
        _SAMPLERS,
    ),
    Mutant(
        "rounded-noise-step-not-told",
        "flashvideo/method/stage2.py",
        "torch.tensor(noise_step, dtype=time_dtype(rounding))",
        "torch.tensor(noise_step, dtype=torch.float32)",
        _SAMPLERS,
    ),
    Mutant(
        "posterior-mean",
        "flashvideo/vae/codec.py",
        "if sample and noise is not None else None",
        "if False else None",
        _PIPELINE,
    ),
    Mutant(
        "one-shot-decode",
        "flashvideo/vae/tiling/plan.py",
        "    first = 2 + latent_frames % 2\n",
        "    first = latent_frames\n",
        _PIPELINE,
    ),
    Mutant(
        "eight-bit-preview-before-the-resize",
        "flashvideo/video/resize.py",
        "_resize_frame(video[:, :, index].float(),",
        "_resize_frame((video[:, :, index].float() * 255).round() / 255,",
        _PIPELINE,
    ),
    Mutant(
        "midpoint-at-the-wrong-time",
        _STAGE2,
        "velocity(x + dt / 2 * velocity(x, t), t + dt / 2)",
        "velocity(x + dt / 2 * velocity(x, t), t)",
        _SAMPLING,
    ),
    Mutant(
        "heun-at-the-wrong-time",
        _STAGE2,
        "velocity(x + dt * first, t + dt)",
        "velocity(x + dt * first, t)",
        _SAMPLING,
    ),
    Mutant(
        "rk4-at-the-wrong-time",
        _STAGE2,
        "k4 = velocity(x + dt * k3, t + dt)",
        "k4 = velocity(x + dt * k3, t)",
        _SAMPLING,
    ),
    Mutant(
        "guidance-branches-always-together",
        "flashvideo/method/guidance.py",
        "if self.sequential:",
        "if False:",
        _SAMPLING,
    ),
    Mutant(
        "resumed-run-overlooks-degraded-latents",
        "flashvideo/runs/runner.py",
        "begun = is_whole(outputs.degraded) or not self.wanted.degraded",
        "begun = True",
        "tests/unit/runs/test_runner.py",
    ),
    Mutant("remembered-clips-of-another-resize", _REPORT, " {settings.resize} {", " {", _REPORT_TESTS),
    Mutant("remembered-clips-of-another-posterior", _REPORT, " {settings.sample_posterior}", "", _REPORT_TESTS),
    *(
        Mutant(
            f"option-{option.partition('=')[0]}-ignored",
            _OPTIONS,
            _GIVEN,
            _GIVEN.replace("= ", f"= None if name == {option.partition('=')[0]!r} else "),
            _OPTION.format(f"--{option}"),
        )
        for option in ("shift=1.5", "solver=heun", "rounding=bf16", "motion=fast,")
    ),
    Mutant(
        "option-vae-dtype-ignored",
        _OPTIONS,
        "vae_dtype = _DTYPES[options.vae_dtype] if options.vae_dtype else None",
        "vae_dtype = None",
        _OPTION.format("--vae-dtype=bf16"),
    ),
)


_NURSERY = """
import gc, os, sys
import diffusers, einops, peft, pytest, safetensors, torch, transformers  # once for all; the package itself by each
gc.freeze()  # or every child would look through what was imported here
for line in sys.stdin:
    folder, tests = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if not child:
        os.chdir(folder)
        sys.path.insert(0, folder)
        for number in (1, 2):
            os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", tests])
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
gc.unfreeze()
"""


class Nursery:
    """A process that has imported the libraries and is copied for every mutant, which saves most of a mutant's time."""

    def __init__(self) -> None:
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # each would be imported again by every child
        command = [sys.executable, "-c", _NURSERY]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def notices(self, mutant: Mutant, folder: Path) -> bool:
        """Whether a test failed, as it should, with the mistake in a copy of the package in ``folder``."""
        _copy_with_mistake(mutant, folder)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{folder}\t{mutant.tests}\n")
        self._process.stdin.flush()
        code = self._process.stdout.readline().strip()
        if code not in ("0", "1"):
            output = (folder / "output.txt").read_text() if (folder / "output.txt").is_file() else ""
            raise RuntimeError(f"{mutant.name}: the tests did not run ({code or 'no answer'}):\n{output[-4000:]}")
        return code == "1"

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def _copy_with_mistake(mutant: Mutant, folder: Path) -> None:
    source = (ROOT / mutant.file).read_text()
    if source.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name}: {mutant.file} has the text {mutant.old!r} {source.count(mutant.old)} times, not once"
        )
    for name in ("flashvideo", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / mutant.file).write_text(source.replace(mutant.old, mutant.new))
    shutil.copy(ROOT / "pyproject.toml", folder)


def main(names: list[str]) -> int:
    survivors = []
    with Nursery() as nursery:
        for mutant in MUTANTS:
            if names and mutant.name not in names:
                continue
            with tempfile.TemporaryDirectory() as folder:
                noticed = nursery.notices(mutant, Path(folder))
            print(f"{'noticed ' if noticed else 'SURVIVED'}  {mutant.name}", flush=True)
            survivors += [] if noticed else [mutant.name]
    print(f"{len(survivors)} survived{': ' + ', '.join(survivors) if survivors else ''}")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
