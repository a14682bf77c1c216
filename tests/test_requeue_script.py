"""The SLURM script of docs/many_gpus.md, run as written: stopped before its time is up, queued again, ended.

``srun`` and ``scontrol`` stand for SLURM on one machine: the first starts the task with SLURM's variables, the second
notes what it was asked.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lightning_modules.strategies.parallel_runs import ROOT, assert_same_tensors, avsync, load, write_config

pytestmark = pytest.mark.slow

TASK = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "squeezed",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NNODES": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def test_a_job_is_stopped_queued_again_and_ends_like_one_that_was_not(tmp_path: Path):
    settings = {"max_steps": 4, "val_check_interval": 2}
    avsync("fit", write_config(tmp_path, "whole", **settings))

    # the documented script, with the experiment and the number of devices of this test
    (script,) = re.findall(r"^(#!/bin/bash\n#SBATCH.*?)^```$", (ROOT / "docs/many_gpus.md").read_text(), re.M | re.S)
    for old, new in (
        (
            "--config configs/syncphony/avsync15.yaml --config configs/trainer/fsdp.yaml",
            f"--config {tmp_path}/job.yaml",
        ),
        ("--trainer.num_nodes 2 --trainer.devices 8", "--trainer.num_nodes 1 --trainer.devices 1"),
        ("runs/avsync15/", f"{tmp_path}/runs/job/"),
    ):
        assert old in script
        script = script.replace(old, new)
    program(tmp_path, "job.sh", script.removeprefix("#!/bin/bash\n"))
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs, "srun", 'exec "$@"')
    program(programs, "avsync", f'exec {sys.executable} -m lightning_modules "$@"')
    program(programs, "scontrol", f'echo "$@" >> {tmp_path}/asked')

    def job() -> int:
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **TASK, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.run([tmp_path / "job.sh"], cwd=ROOT, env=environment, timeout=600, check=False).returncode

    write_config(tmp_path, "job", stop_at=1, witness={"stop_by": "SIGUSR1"}, **settings)
    assert job() == 75
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    assert job() == 0
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"  # not asked for again

    runs = tmp_path / "runs/job"
    assert not list((runs / "version_0/checkpoints").iterdir())  # superseded by what the second start has written
    whole = load(tmp_path / "runs/whole/version_0/checkpoints/last.ckpt")
    assert_same_tensors(load(runs / "version_1/checkpoints/last.ckpt"), whole, 0)
