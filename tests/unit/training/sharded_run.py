"""Two processes train one run three times: in one go, up to step 3, and on from there.

    python -m torch.distributed.run --standalone --nproc_per_node=2 \
        -m tests.unit.training.sharded_run KIND CONFIG FOLDER

accelerate shares parameters out on accelerators only. So unless KIND is ``plain``, it is told that these processes have
some; all else is as it is: its FSDP or DeepSpeed, by the environment, with gloo between the processes.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp._flat_param import FlatParamHandle

from flashvideo.training import loop, stages
from flashvideo.training.runs import open_run

KIND, CONFIG, FOLDER = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])

if KIND != "plain":
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    FlatParamHandle.to_cpu = lambda _self: contextlib.nullcontext()  # FSDP 1's would free what it takes for a copy
    loop.runs_on_cpu = stages.runs_on_cpu = lambda: False
Accelerator.end_training = lambda self: None  # which ends the group of processes

prepared = loop._Trainer.__init__


def tell(trainer: loop._Trainer, run: loop.Run) -> None:
    prepared(trainer, run)
    kinds = {type(parameter).__name__ for parameter in trainer.module.parameters()}
    if trainer.accelerator.is_main_process:
        print(trainer.accelerator.distributed_type.value, *sorted(kinds), flush=True)


loop._Trainer.__init__ = tell  # type: ignore[method-assign]
for folder, more in (("whole", {}), ("parts", {"stop_after": 3}), ("parts", {"resume": True})):
    loop.train(open_run(CONFIG, FOLDER / folder), **more)
torch.distributed.destroy_process_group()
