"""Video-to-audio models that live in another program, such as MMAudio or V-AURA in an environment of their own."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from components.contracts import V2AModel
from components.errors import InputError
from components.media.reader import read_sound
from components.media.writer import write_mp4
from components.weights.pretrained import builds_shapes_only

JOBS_FILE = "jobs.json"
RUNNERS = Path(__file__).parent.absolute() / "runners"
"""The folder of `components.v2a.runners.program`, which knows V-AURA and MMAudio."""
_LAST_LINES = 5


class SubprocessV2A(V2AModel):
    """Writes the clips as mp4, runs a command once, and reads the wav files it leaves.

    Loading a large model takes longer than running it: give all clips of a validation in one call. The program finds
    the clips in a JSON list whose entries hold ``id``, ``video`` (path of an mp4 without sound), ``audio`` (path of
    the wav it has to write), ``fps``, ``num_frames``, ``duration_s``, ``caption`` and ``seed``. A sound longer than
    the clip is cut; changing the frame rate or padding to the length a model wants is the program's business.

    Args:
        command: program and arguments, as a list or as one line that is split like a shell would; ``{jobs}`` in an
            argument stands for the path of the JSON list, which is appended as the last argument where no argument
            mentions it, and ``{runners}`` for the folder of the programs that ship with this package.
        workdir: folder in which each call makes a folder of its own, and the program's working directory.
        sample_rate: rate the sounds are brought to.
        crf: H.264 quality of the mp4 files; 10 is visually lossless.
        timeout_s: seconds the program may take for one call, or None for any.
        keep_files: leave the files of each call for inspection.

    Raises:
        InputError: if the command is empty, its program or a file in ``{runners}`` is not found, or a program that
            ships lacks what it needs (weights, a checkout, a library).
    """

    def __init__(
        self,
        command: str | list[str],
        workdir: str,
        sample_rate: int = 22_050,
        crf: float = 10.0,
        timeout_s: float | None = None,
        keep_files: bool = False,
    ) -> None:
        super().__init__()
        self.command = shlex.split(command) if isinstance(command, str) else list(command)
        if not self.command:
            raise InputError("command is empty; name the program that turns the listed videos into sound")
        program = shutil.which(self.command[0])
        if program is None:
            raise InputError(f"command names '{self.command[0]}', which is no program here; give its full path")
        # found from here, but run in the working directory
        self.command[0] = str(Path(program).absolute())
        for part in self.command:
            if part.startswith("{runners}") and not Path(part.replace("{runners}", str(RUNNERS))).is_file():
                raise InputError(f"command names '{part}', which does not ship; '{{runners}}/program.py' does")
        self.workdir = Path(workdir).expanduser()
        self.sample_rate = sample_rate
        self.crf = crf
        self.timeout_s = timeout_s
        self.keep_files = keep_files
        if any(part.startswith("{runners}") for part in self.command) and not builds_shapes_only():
            self._check_runner()

    def identifying_settings(self) -> dict[str, object]:
        """The command and what it is given; not where it works and how long it may take."""
        return {"command": list(self.command), "sample_rate": self.sample_rate, "crf": self.crf}

    @torch.no_grad()
    def forward(
        self,
        video: Tensor,
        fps: float,
        captions: Sequence[str] | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> tuple[Tensor, int]:
        """``[B, T, 3, H, W]`` in [0, 1] to a waveform ``[B, S]`` over ``[0, T / fps]`` s, and its sample rate.

        Raises:
            InputError: if the program fails, or a wav is missing, not finite or too short.
        """
        self.workdir.mkdir(parents=True, exist_ok=True)
        # its own folder per call: ranks and runs that share the workdir do not meet
        folder = Path(tempfile.mkdtemp(prefix="v2a-", dir=self.workdir)).absolute()
        try:
            jobs = self._write_jobs(folder, video, fps, captions, generators)
            self._run(folder)
            duration_s = video.shape[1] / fps
            tracks = [self._read(Path(str(job["audio"])), duration_s, 1 / fps) for job in jobs]
        finally:
            if not self.keep_files:
                shutil.rmtree(folder, ignore_errors=True)
        return torch.stack(tracks).to(video.device), self.sample_rate

    def _write_jobs(
        self,
        folder: Path,
        video: Tensor,
        fps: float,
        captions: Sequence[str] | None,
        generators: Sequence[torch.Generator] | None,
    ) -> list[dict[str, str | float | int]]:
        """Writes the mp4 files and the list of them."""
        pixels = (video.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        # H.264 needs even sides: repeat the last row or column
        height, width = pixels.shape[-2:]
        rows, columns = (torch.arange(side + side % 2).clamp(max=side - 1) for side in (height, width))
        pixels = pixels[:, :, :, rows][..., columns]
        jobs: list[dict[str, str | float | int]] = []
        for index, clip in enumerate(pixels):
            name = f"clip_{index:05d}"
            write_mp4(folder / f"{name}.mp4", clip, fps, crf=self.crf)
            jobs.append(
                {
                    "id": name,
                    "video": str(folder / f"{name}.mp4"),
                    "audio": str(folder / f"{name}.wav"),
                    "fps": fps,
                    "num_frames": len(clip),
                    "duration_s": len(clip) / fps,
                    "caption": "" if captions is None else captions[index],
                    "seed": 0 if generators is None else generators[index].initial_seed() % 2**31,
                }
            )
        (folder / JOBS_FILE).write_text(json.dumps(jobs, indent=1))
        return jobs

    def _check_runner(self) -> None:
        """Asks a program that ships whether it has what it needs: not at the first validation, but now."""
        command = [part.replace("{runners}", str(RUNNERS)) for part in self.command if "{jobs}" not in part]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        self._check_status(done)

    def _check_status(self, done: subprocess.CompletedProcess[str]) -> None:
        if done.returncode:
            output = (done.stderr.strip() or done.stdout.strip()).splitlines()[-_LAST_LINES:]
            raise InputError(
                f"the V2A command '{shlex.join(self.command)}' ended with status {done.returncode}: "
                + (" | ".join(output) or "it printed nothing")
            )

    def _run(self, folder: Path) -> None:
        """Runs the program on a folder's list."""
        jobs = str(folder / JOBS_FILE)
        command = [part.replace("{jobs}", jobs).replace("{runners}", str(RUNNERS)) for part in self.command]
        if not any("{jobs}" in part for part in self.command):
            command.append(jobs)
        try:
            # no shell: the command is a list, and paths may hold anything
            done = subprocess.run(
                command, cwd=self.workdir, capture_output=True, text=True, errors="replace", timeout=self.timeout_s
            )
        except subprocess.TimeoutExpired:
            raise InputError(
                f"the V2A command '{shlex.join(self.command)}' took longer than timeout_s = {self.timeout_s}; "
                "raise it or give fewer clips"
            ) from None
        self._check_status(done)

    def _read(self, file: Path, duration_s: float, slack_s: float) -> Tensor:
        """A sound of exactly ``duration_s``: ``[S]``; up to ``slack_s`` may be missing at its end."""
        if not file.is_file():
            raise InputError(f"the V2A command '{shlex.join(self.command)}' left no '{file.name}'; it has to write it")
        try:
            track = read_sound(file, self.sample_rate)
        except InputError as error:  # also samples that are NaN or infinite
            raise InputError(f"the V2A command '{shlex.join(self.command)}' wrote no usable sound: {error}") from None
        wanted = round(duration_s * self.sample_rate)
        if len(track) < wanted - round(slack_s * self.sample_rate):
            raise InputError(
                f"'{file.name}' of the V2A command '{shlex.join(self.command)}' lasts "
                f"{len(track) / self.sample_rate:.3f} s but the clip lasts {duration_s:.3f} s; it has to cover the clip"
            )
        return pad(track[:wanted], (0, max(0, wanted - len(track))))
