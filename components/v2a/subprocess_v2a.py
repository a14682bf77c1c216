"""Video-to-audio models that live in another program, such as MMAudio or V-AURA in an environment of their own."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from components.contracts import V2AModel
from components.errors import InputError
from components.media.reader import read_sound
from components.media.writer import write_mp4
from components.weights.named_files import digest_of, names_files
from components.weights.pretrained import builds_shapes_only, located

JOBS_FILE = "jobs.json"
RUNNERS = Path(__file__).parent.absolute() / "runners"
"""The folder of `components.v2a.runners.program`, which knows V-AURA and MMAudio."""
STAY, ANSWER = "--stay", "done"
"""What a program is started with that is to take one list after the other, and what it says when one is done."""
_LAST_LINES = 5
_PATIENCE_S = 10.0
"""How long a program may take to end after its input."""


@names_files("weights")
class SubprocessV2A(V2AModel):
    """Writes the clips as mp4, runs a command on them, and reads the wav files it leaves.

    Loading a large model takes longer than running it, and a validation asks for every batch and every kind of video:
    with ``stays`` the command is started once and ended with the validation, when the judge leaves the device (`cpu`),
    so that it takes no memory from the training.

    The program finds the clips in a JSON list whose entries hold ``id``, ``video`` (path of an mp4 without sound),
    ``audio`` (path of the wav it has to write), ``fps``, ``num_frames``, ``duration_s``, ``caption`` and ``seed``. A
    sound longer than the clip is cut; changing the frame rate or padding to the length a model wants is the program's
    business.

    The program sees the GPU that the clips are on as its only one (``CUDA_VISIBLE_DEVICES``), so that each process of a
    run has its own; for clips on the CPU it sees what this process does.

    Args:
        command: program and arguments, as a list or as one line that is split like a shell would; ``{jobs}`` in an
            argument stands for the path of the JSON list, which is appended as the last argument where no argument
            mentions it, and ``{runners}`` for the folder of the programs that ship with this package.
        workdir: folder in which each call makes a folder of its own, and the program's working directory.
        sample_rate: rate the sounds are brought to.
        crf: H.264 quality of the mp4 files; 10 is visually lossless.
        timeout_s: seconds the program may take for one call, or None for any.
        keep_files: leave the files of each call for inspection.
        stays: the program stays for the next call, as those that ship can. It is started with ``--stay`` in place of
            the list, reads the path of each list as a line of its standard input, answers each with a line ``done`` on
            its standard output, and ends with its input.
        weights: files and folders that the sound depends on; their digests are part of the judge's identity. What is
            not named here is not: without any, other weights under the same command are the same judge.

    Raises:
        InputError: if the command is empty, its program, a file in ``{runners}`` or one of ``weights`` is not found, a
            program that ships lacks what it needs (weights, a checkout, a library), or ``{jobs}`` stands in the command
            of one that stays.
    """

    def __init__(
        self,
        command: str | list[str],
        workdir: str,
        sample_rate: int = 22_050,
        crf: float = 10.0,
        timeout_s: float | None = None,
        keep_files: bool = False,
        stays: bool = False,
        weights: Sequence[str] = (),
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
        self.stays = stays
        self._program: subprocess.Popen[str] | None = None
        self._visible: str | None = None
        self._digests: list[str] = []
        if not builds_shapes_only():
            self._digests = [_digest_of(name) for name in weights]
        if stays and any("{jobs}" in part for part in self.command):
            raise InputError(
                "command holds {jobs}, but with stays: true a program reads its lists from standard input; leave "
                "{jobs} out"
            )
        if any(part.startswith("{runners}") for part in self.command) and not builds_shapes_only():
            self._check_runner()

    def identifying_settings(self) -> dict[str, object]:
        """The command, what it is given and which weights it names; not where it works and how long it may take."""
        told = {"command": list(self.command), "sample_rate": self.sample_rate, "crf": self.crf}
        return {**told, "weights_sha256": list(self._digests)} if self._digests else told

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
            self._run(folder, visible_devices(video.device, os.environ))
            duration_s = video.shape[1] / fps
            tracks = [self._read(Path(str(job["audio"])), duration_s, 1 / fps) for job in jobs]
        finally:
            if not self.keep_files:
                shutil.rmtree(folder, ignore_errors=True)
        return torch.stack(tracks).to(video.device), self.sample_rate

    def cpu(self) -> Self:
        """Ends the program that stayed, which may hold memory of a device; the next call starts another."""
        if self._program is not None:
            program, self._program = self._program, None
            try:
                program.communicate(timeout=_PATIENCE_S)  # the end of its input is the end of its work
            except subprocess.TimeoutExpired:
                program.kill()
                program.communicate()
        return super().cpu()

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

    def _run(self, folder: Path, visible: str | None) -> None:
        """Runs the program on a folder's list, or tells the one that stays; ``visible`` are the GPUs that it sees."""
        jobs = str(folder / JOBS_FILE)
        command = [part.replace("{jobs}", jobs).replace("{runners}", str(RUNNERS)) for part in self.command]
        if self.stays:
            return self._tell(command, jobs, visible)
        if not any("{jobs}" in part for part in self.command):
            command.append(jobs)
        try:
            # no shell: the command is a list, and paths may hold anything
            done = subprocess.run(
                command,
                cwd=self.workdir,
                env=_environment(visible),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout_s,
            )
        except subprocess.TimeoutExpired:
            raise self._too_slow() from None
        self._check_status(done)

    def _tell(self, command: Sequence[str], jobs: str, visible: str | None) -> None:
        """Starts the program where none stays, tells it a list and waits for its answer."""
        if self._visible != visible:
            self.cpu()  # it works on another GPU
        if self._program is None:
            self._visible = visible
            self._program = subprocess.Popen(
                [*command, STAY],
                cwd=self.workdir,
                env=_environment(visible),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,  # one stream, so that neither fills up unread
                text=True,
                errors="replace",
            )
        program, was_too_slow = self._program, threading.Event()

        def end() -> None:
            was_too_slow.set()
            program.kill()

        timer = None if self.timeout_s is None else threading.Timer(self.timeout_s, end)
        if timer is not None:
            timer.start()
        try:
            is_done, said = _answer(program, jobs)
        finally:
            if timer is not None:
                timer.cancel()
        if is_done:
            return
        self._program = None
        status = program.wait()
        if was_too_slow.is_set():
            raise self._too_slow()
        self._check_status(subprocess.CompletedProcess(command, status or 1, said, ""))

    def _too_slow(self) -> InputError:
        return InputError(
            f"the V2A command '{shlex.join(self.command)}' took longer than timeout_s = {self.timeout_s}; "
            "raise it or give fewer clips"
        )

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


def _digest_of(name: str) -> str:
    place = located(name)
    if not place.exists():
        raise InputError(f"weights names '{name}', which does not exist; give files or folders that the program reads")
    return digest_of(place)


def visible_devices(device: torch.device, environment: Mapping[str, str]) -> str | None:
    """``CUDA_VISIBLE_DEVICES`` for a program that is to work on a device of this process; None leaves it as it is.

    Where the variable is set in the ``environment``, this process counts its devices among those that it names.
    """
    if device.type != "cuda":
        return None
    index = device.index or 0
    named = environment.get("CUDA_VISIBLE_DEVICES")
    return str(index) if named is None else named.split(",")[index].strip()


def _environment(visible: str | None) -> dict[str, str]:
    return dict(os.environ) if visible is None else {**os.environ, "CUDA_VISIBLE_DEVICES": visible}


def _answer(program: subprocess.Popen[str], jobs: str) -> tuple[bool, str]:
    """Whether a program that stays has made the sounds of a list, and the last it said of it."""
    asked, told = _pipes(program)
    said: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        asked.write(f"{jobs}\n")
        asked.flush()
    except OSError:  # it has ended: what it said last is still there to be read
        pass
    for line in told:
        if line.strip() == ANSWER:
            return True, ""
        said.append(line)
    return False, "".join(said)


def _pipes(program: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert program.stdin is not None and program.stdout is not None
    return program.stdin, program.stdout
