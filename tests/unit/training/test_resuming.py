"""Runs that go on after signals, kills and damage: to the same bytes, and never by running a pickle."""

from __future__ import annotations

import functools
import json
import pickle
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flashvideo.cli import terminable
from flashvideo.training import loop, run_folder
from flashvideo.training.config import Phase, RunSettings
from flashvideo.training.ema import AveragedWeights
from flashvideo.training.loop import Run, train
from flashvideo.training.restricted import restricted_unpickling
from flashvideo.training.run_folder import MANIFEST, checkpoints_in, seal
from tests.unit.training.small_runs import read_log

SETTINGS = RunSettings(ema=0.9, learning_rate=0.01, max_grad_norm=10, log_every=1, save_every=2)


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 2)

    def forward(self, batch):
        return (self.layer(batch["x"]) - 1).square().mean(), {}


def make_batch(_phase, generator, size):
    return {"x": torch.randn(size, 8, generator=generator)}


def small_run(folder: Path, settings: RunSettings = SETTINGS) -> tuple[Run, dict[str, Tensor]]:
    """A run of six steps, and where its exported weights will be."""
    torch.manual_seed(0)
    exported: dict[str, Tensor] = {}

    def export(_folder, state):
        exported.update({name: value.clone() for name, value in state.items()})

    return Run(Linear(), make_batch, [Phase(steps=6, batch_size=2)], settings, folder, export), exported


def finish(folder: Path) -> dict[str, bytes]:
    """What resuming in a folder ends in."""
    run, exported = small_run(folder)
    assert train(run, resume=True) == 6
    return {name: value.numpy().tobytes() for name, value in exported.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    return finish(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def stopped(tmp_path) -> Path:
    """A run with checkpoints of steps 2 and 4."""
    train(small_run(tmp_path / "run")[0], stop_after=4)
    return tmp_path / "run"


def steps(folder: Path) -> list[int]:
    return [run_folder.step_of(path) for path in checkpoints_in(folder)]


# Hostile files


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


def plain_pickle(path: Path, proof: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile(proof)))


def torch_pickle(path: Path, proof: Path) -> None:
    torch.save({"steps": 4, "averages": [Hostile(proof)]}, path)


def test_the_hostile_files_of_these_tests_do_run(tmp_path):
    for write in (plain_pickle, torch_pickle):
        write(tmp_path / "file", tmp_path / "proof")
        if write is torch_pickle:
            torch.load(tmp_path / "file", weights_only=False)
        else:
            pickle.loads((tmp_path / "file").read_bytes())
        assert (tmp_path / "proof").exists()
        (tmp_path / "proof").unlink()


READ_BY_ACCELERATE = [
    *("optimizer.bin", "random_states_0.pkl", "custom_checkpoint_0.pkl", "scheduler.bin", "scaler.pt"),
    *("sampler.bin", "pytorch_model.bin", "dl_state_dict.bin"),
]


@pytest.mark.parametrize("write", [plain_pickle, torch_pickle])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_hostile_file_in_any_place_of_a_run_folder_is_never_run(stopped, whole, tmp_path, write, sealed):
    newest, proof = checkpoints_in(stopped)[-1], tmp_path / "proof"
    places = {path.relative_to(stopped) for path in stopped.rglob("*") if path.is_file()}
    places |= {newest.relative_to(stopped) / name for name in READ_BY_ACCELERATE} | {Path("checkpoints/step-00000005")}
    endings = set()
    for place in sorted(places):
        folder = tmp_path / "hostile"
        shutil.copytree(stopped, folder)
        checkpoint = folder / newest.relative_to(stopped)
        write(folder / place, proof)
        if place.name == "pytorch_model.bin":
            (checkpoint / "model.safetensors").unlink()  # in whose absence it is read
        if sealed and place.name != MANIFEST:
            seal(checkpoint)
        ending = "resumed"
        try:
            ended = finish(folder)
        except ValueError as error:
            ending, words = "refused", str(error)
        assert not proof.exists(), f"{place} was run"
        assert (ended == whole) if ending == "resumed" else ("Nothing in it was executed" in words), place
        endings.add(ending)
        shutil.rmtree(folder)
    assert endings == ({"resumed", "refused"} if sealed else {"resumed"})


def test_averages_kept_as_a_pickle_are_refused(stopped, tmp_path):
    for checkpoint in checkpoints_in(stopped):
        (checkpoint / MANIFEST).unlink()
        (checkpoint / loop.AVERAGES).unlink()
        torch_pickle(checkpoint / "custom_checkpoint_0.pkl", tmp_path / "proof")
    with pytest.raises(ValueError, match=f"has no {MANIFEST}"):
        finish(stopped)
    assert not (tmp_path / "proof").exists()


@pytest.fixture
def sharded(tmp_path) -> Path:
    """What FSDP writes with ``torch.distributed.checkpoint``."""
    import torch.distributed.checkpoint as sharded_checkpoint

    sharded_checkpoint.save({"a": torch.ones(3), "rate": 0.5}, checkpoint_id=tmp_path / "step/optimizer_0")
    return tmp_path / "step"


def load_sharded(folder: Path, *names: str) -> dict[str, object]:
    import torch.distributed.checkpoint as sharded_checkpoint

    state = {"a": torch.zeros(3), "rate": 0.0}
    state = {name: state[name] for name in names or state}
    with restricted_unpickling(folder):
        sharded_checkpoint.load(state, checkpoint_id=folder / "optimizer_0")
    return state


def test_a_sharded_checkpoint_is_read(sharded):
    state = load_sharded(sharded)
    assert state["a"].tolist() == [1, 1, 1]
    assert state["rate"] == 0.5


def test_a_hostile_table_of_contents_is_never_run(sharded, tmp_path):
    plain_pickle(sharded / "optimizer_0/.metadata", tmp_path / "proof")
    with pytest.raises(ValueError, match="Nothing in it was executed"):
        load_sharded(sharded)
    assert not (tmp_path / "proof").exists()


def test_a_hostile_part_is_never_run(sharded, tmp_path):
    from torch.distributed.checkpoint import CheckpointException

    part = next((sharded / "optimizer_0").glob("*.distcp"))
    table = pickle.loads((sharded / "optimizer_0/.metadata").read_bytes())
    for write in (plain_pickle, torch_pickle):
        write(part, tmp_path / "proof")
        for info in table.storage_data.values():
            info.offset, info.length = 0, part.stat().st_size
        (sharded / "optimizer_0/.metadata").write_bytes(pickle.dumps(table))
        for name in ("a", "rate"):
            with pytest.raises(CheckpointException):
                load_sharded(sharded, name)
            assert not (tmp_path / "proof").exists(), name


def test_the_restriction_ends(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch_pickle(tmp_path / "file", tmp_path / "proof")
    with restricted_unpickling(tmp_path), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "file", weights_only=False)
    assert not (tmp_path / "proof").exists()
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "proof").exists()


# Signals


def before(owner, name, monkeypatch, act) -> None:
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def both(*arguments, **more):
        act()
        return inner(*arguments, **more)

    monkeypatch.setattr(owner, name, both)


def after(owner, name, monkeypatch, act) -> None:
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def both(*arguments, **more):
        result = inner(*arguments, **more)
        act()
        return result

    monkeypatch.setattr(owner, name, both)


PLACES = {  # and which call is in the third step; there are two parameters
    "before the optimiser's step": (before, torch.optim.AdamW, "step", 3),
    "inside the optimiser's step": (after, torch.Tensor, "addcdiv_", 5),
    "after the optimiser's step": (after, torch.optim.AdamW, "step", 3),
    "before the averaging": (before, AveragedWeights, "update", 3),
    "inside the averaging": (before, torch, "_foreach_lerp_", 3),
    "after the averaging": (after, AveragedWeights, "update", 3),
}


def on_call(number: int, act):
    """``act`` in that call of the function that is returned."""
    calls = []

    def count() -> None:
        calls.append(1)
        if len(calls) == number:
            act()

    return count


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_inside_a_step_ends_the_run_after_it(whole, tmp_path, monkeypatch, place, sent):
    where, owner, name, call = PLACES[place]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch, terminable():
        where(owner, name, patch, on_call(call, lambda: signal.raise_signal(sent)))
        with pytest.raises(KeyboardInterrupt):
            train(small_run(tmp_path / "run")[0])
    left = steps(tmp_path / "run")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert finish(tmp_path / "run") == whole
    assert left == [2, 3]
    assert [entry["step"] for entry in read_log(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_a_second_interrupt_ends_at_once_and_writes_nothing(whole, tmp_path, monkeypatch):
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        before(AveragedWeights, "update", patch, on_call(3, twice))
        with pytest.raises(KeyboardInterrupt):
            train(small_run(tmp_path / "run")[0])
    assert steps(tmp_path / "run") == [2]
    assert finish(tmp_path / "run") == whole


def test_a_signal_in_the_last_step_is_too_late(whole, tmp_path, monkeypatch):
    run, exported = small_run(tmp_path / "run")
    with monkeypatch.context() as patch:
        before(AveragedWeights, "update", patch, on_call(6, lambda: signal.raise_signal(signal.SIGTERM)))
        assert train(run) == 6
    assert {name: value.numpy().tobytes() for name, value in exported.items()} == whole


def test_the_launchers_copy_of_an_interrupt_is_none(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with loop.StopRequest(copies_within=1.0) as stop:
        signal.raise_signal(signal.SIGINT)
        clock[0] += 0.5
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        clock[0] += 1.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with loop.StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.requested
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_trains_without_handlers(whole, tmp_path):
    ended = []
    thread = threading.Thread(target=lambda: ended.append(finish(tmp_path / "run")))
    thread.start()
    thread.join()
    assert ended == [whole]


# Kills while saving, and damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "emptied": lambda path: path.write_bytes(b""),
    "one bit": flip,
    "removed": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(stopped, whole, tmp_path, damage, caplog):
    newest = checkpoints_in(stopped)[-1].relative_to(stopped)
    names = sorted(path.name for path in (stopped / newest).iterdir())
    assert {MANIFEST, loop.AVERAGES, "model.safetensors", "optimizer.bin"} < set(names)
    for name in names:
        folder = tmp_path / "damaged"
        shutil.copytree(stopped, folder)
        DAMAGES[damage](folder / newest / name)
        caplog.clear()
        assert finish(folder) == whole
        assert "step-00000004 is not as it was written" in caplog.text, name
        assert [entry["step"] for entry in read_log(folder)] == [1, 2, 3, 4, 5, 6]
        assert steps(folder) == [4, 6]
        shutil.rmtree(folder)


def test_what_a_file_browser_leaves_is_no_damage(stopped):
    (checkpoints_in(stopped)[-1] / ".DS_Store").write_bytes(b"Bud1")
    (checkpoints_in(stopped)[-1] / "notes.txt").symlink_to("/nowhere")
    assert run_folder.damage(checkpoints_in(stopped)[-1]) == "notes.txt does not belong to it"
    (checkpoints_in(stopped)[-1] / "notes.txt").unlink()
    assert run_folder.damage(checkpoints_in(stopped)[-1]) == ""


def test_a_table_of_contents_is_part_of_a_sharded_checkpoint(sharded):
    seal(sharded)
    assert run_folder.damage(sharded) == ""
    flip(sharded / "optimizer_0/.metadata")
    assert run_folder.damage(sharded) == "optimizer_0/.metadata has changed"


def test_damaged_checkpoints_alone_are_refused(stopped):
    for checkpoint in checkpoints_in(stopped):
        flip(checkpoint / "model.safetensors")
    with pytest.raises(ValueError, match=r"step-00000002: model\.safetensors has changed"):
        finish(stopped)


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "a step that is there, damaged"])
def test_a_kill_while_saving_loses_no_good_checkpoint(stopped, whole, tmp_path, monkeypatch, again):
    if again:
        flip(checkpoints_in(stopped)[-1] / "optimizer.bin")

    def kill() -> None:
        raise KilledError

    kills = 0
    for number in range(1, 100):
        folder, killed = tmp_path / f"killed-{number}", False
        shutil.copytree(stopped, folder)
        with monkeypatch.context() as patch:
            act = on_call(number, kill)
            for owner, name in ((Path, "rename"), (shutil, "rmtree"), (run_folder, "seal"), (loop, "seal")):
                before(owner, name, patch, act)
            try:
                train(small_run(folder)[0], resume=True, stop_after=5)
            except KilledError:
                killed = True
        if not killed:
            break
        kills += 1
        left = run_folder.newest_whole(folder)
        assert left is not None
        assert run_folder.step_of(left) >= (2 if again else 4)
        assert finish(folder) == whole
    assert kills >= (5 if again else 3)


def test_a_good_checkpoint_is_there_until_its_successor_is(stopped, monkeypatch):
    """Killed between taking the name from the one and giving it to the other."""
    newest, written = checkpoints_in(stopped)[-1], stopped / "checkpoints/unfinished"
    shutil.copytree(newest, written)

    def kill() -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        before(Path, "rename", patch, on_call(2, kill))
        with pytest.raises(KilledError):
            run_folder.put_in_place(written, newest, keep=2)
    assert run_folder.newest_whole(stopped) == newest


def test_a_torn_last_line_of_the_log_is_cut_off(stopped, whole):
    train(small_run(stopped)[0], resume=True, stop_after=5)
    log = stopped / "log.jsonl"
    log.write_bytes(log.read_bytes() + b'{"step": 6, "lo\xc3')
    assert finish(stopped) == whole
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_resuming_where_there_is_nothing_is_said(tmp_path, caplog):
    finish(tmp_path / "run")
    assert "holds no checkpoint; beginning with step 1" in caplog.text


def test_a_second_run_in_one_folder_is_refused(stopped):
    with pytest.raises(ValueError, match="holds a run already"):
        train(small_run(stopped)[0])
