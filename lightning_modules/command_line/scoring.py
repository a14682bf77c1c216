"""Runs the test loop over generated files: which data they are compared with, and what is looked at before that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from callbacks.judge import JudgeCallback
from callbacks.set_metrics import SetMetrics
from components.errors import InputError
from components.media.clock import ClipShape
from components.media.reader import probe
from datamodules.prompt_clips import PromptClips
from datamodules.reading.prompt_list import is_prompt_list
from lightning_modules.command_line.class_paths import found_at
from lightning_modules.command_line.cli import AVSyncCLI, run_experiment
from lightning_modules.command_line.config_files import arguments_and_files, config_files, content_of, with_bases
from lightning_modules.command_line.preflight import check_files, sections
from lightning_modules.command_line.tracebacks import tracebacks_kept
from lightning_modules.judged_files.headers import headers, shape_of
from lightning_modules.judged_files.matching import listed_files
from lightning_modules.judged_files.module import GeneratedFiles

_MODEL = "lightning_modules.judged_files.GeneratedFiles"
_REAL = "datamodules.reference_clips.ReferenceClips"
_PROMPTS = "datamodules.prompt_clips.PromptClips"
_REAL_RATE = 44_100
"""Of real sound whose own rate is not known: all that is heard, and more than any judge of synchrony takes."""


class ScoreCLI(AVSyncCLI):
    """``avsync test`` of generated files, which are looked at before any judge is built."""

    def before_instantiate_classes(self) -> None:
        """Finds every clip's file and reads all headers."""
        config = self.config[str(self.subcommand)]
        kind = found_at(config.data.class_path)
        if isinstance(kind, type) and issubclass(kind, PromptClips):
            self._leave_out(config)
        self._leave_out_missing(config)
        super().before_instantiate_classes()
        model = found_at(config.model.class_path)
        # one rank looks for all; the others find the same later
        if getattr(rank_zero_only, "rank", 0) or not (isinstance(model, type) and issubclass(model, GeneratedFiles)):
            return
        wanted = config.clone()
        for key in set(vars(wanted)) - {"data"}:
            wanted.pop(key)
        data: Any = self._parser(str(self.subcommand)).instantiate_classes(wanted).data
        if callable(getattr(data, "clip_names", None)):
            data.prepare_data()
            data.setup("test")
            model(**config.model.init_args.as_dict()).check(data.clip_names("test"), data.clip)

    def _leave_out(self, config: Any) -> None:
        """Removes what compares with real clips, and says so.

        Raises:
            InputError: if the sound of real clips is asked for.
        """
        if config.model.init_args.sound == "reference":
            raise InputError(
                "model.sound is reference, but no real clips are given, so that there is no such sound; give them with "
                "--reference, or set --model.sound generated"
            )
        named = config.get("callbacks")
        gone = []
        for name, section in (named.as_dict() if named else {}).items():
            if _needs_reference(section):
                named[name] = None
                gone.append(name)
        without = f"without real clips, left out are {', '.join(gone)}" if gone else "without real clips"
        rank_zero_info(f"{without}; entries that end in _real have nothing to judge")

    def _leave_out_missing(self, config: Any) -> None:
        """Removes judges whose weights are not there, and says where they are to be had; the others go on.

        Raises:
            InputError: if no judge is left.
        """
        named = config.get("callbacks")
        judges, gone = 0, []
        for name, section in (named.as_dict() if named else {}).items():
            kind = found_at(section["class_path"]) if section else None
            if not (isinstance(kind, type) and issubclass(kind, JudgeCallback | SetMetrics)):
                continue
            judges += 1
            try:
                check_files({f"callbacks.{name}": section})
            except InputError as error:
                named[name] = None
                gone.append(f"{name} ({error})")
        if gone and len(gone) == judges:
            raise InputError(f"every judge lacks its weights: {'; '.join(gone)}")
        for sentence in gone:
            rank_zero_warn(f"left out is {sentence}")


def _needs_reference(section: Any) -> bool:
    """Whether a callback, or a part of it, says that it compares with real clips."""
    return any(getattr(found_at(part["class_path"]), "needs_reference", False) for _, part in sections(section, ""))


def score(options: Sequence[str], generated: str, reference: str | None, variants: Mapping[str, str]) -> int:
    """Judges files by the configuration that ``options`` give.

    Args:
        options: of ``avsync test``.
        generated: the folder or manifest of generated files.
        reference: the folder or manifest of real clips, or a list of prompts; None takes the configuration's data, and
            no real clips where it has none.
        variants: further folders by name.

    Returns:
        The exit status of ``avsync test``.

    Raises:
        InputError: if nothing says how to judge, or the files cannot be listed.
    """
    expanded = with_bases(options)
    files = config_files(expanded)
    if not files and not any(option.startswith(("--callbacks", "--trainer.callbacks")) for option in options):
        raise InputError(
            "nothing says what to judge the files by; give a configuration of callbacks, such as --config "
            "configs/eval/folder.yaml"
        )
    model = [f"--model={_MODEL}", f"--model.init_args.folder={generated}"]
    if variants:
        model.append(f"--model.init_args.variants={json.dumps(dict(variants))}")
    data = _data(generated, reference, files, options)
    clip = [] if _is_given("clip", files, options) else _clip(generated, _sound_rate(reference, files, options))
    # files first: what follows them wins
    config, others = [], []
    for option, value in arguments_and_files(options):
        if option is None:
            others.append(value)
        else:
            config += [option, value]
    with tracebacks_kept():
        return run_experiment(["test", *config, *model, *data, *clip, *others], ScoreCLI)


def _data(generated: str, reference: str | None, files: Sequence[str], options: Sequence[str]) -> list[str]:
    """Options that say what the files are compared with."""
    if reference is not None and Path(reference).is_file() and is_prompt_list(Path(reference)):
        return [f"--data={_PROMPTS}", f"--data.init_args.root={reference}"]
    if _is_given("data", files, options) and not (reference is not None and _asks_prompts(files, options)):
        return [] if reference is None else [f"--data.init_args.root={reference}"]
    if reference is None:
        return [f"--data={_PROMPTS}", f"--data.init_args.root={generated}"]
    return [f"--data={_REAL}", f"--data.init_args.root={reference}"]


def _asks_prompts(files: Sequence[str], options: Sequence[str]) -> bool:
    """Whether the configuration's data are a list of prompts, which real clips are none of."""
    sections = [content_of(Path(file)).get("data") for file in files]
    paths = [section.get("class_path") for section in sections if isinstance(section, Mapping)]
    return [path for path in paths if path][-1:] == [_PROMPTS] and not any(o.startswith("--data") for o in options)


def _is_given(section: str, files: Sequence[str], options: Sequence[str]) -> bool:
    """Whether a configuration file or an option says anything of a section."""
    of_options = any(option.partition("=")[0].split(".")[0] == f"--{section}" for option in options)
    return of_options or any(content_of(Path(file)).get(section) is not None for file in files)


def _said(key: str, files: Sequence[str], options: Sequence[str]) -> Any:
    """What files and options say of an argument of a class, such as ``model.sound``; the last one counts."""
    section, name = key.split(".")
    found = None
    for file in files:
        content = content_of(Path(file)).get(section)
        arguments = content.get("init_args") if isinstance(content, Mapping) else None
        found = arguments.get(name, found) if isinstance(arguments, Mapping) else found
    for option, following in zip(options, [*options[1:], None], strict=True):
        given, joined, value = option.partition("=")
        if given in (f"--{section}.{name}", f"--{section}.init_args.{name}"):
            found = value if joined else following
    return found


def _sound_rate(reference: str | None, files: Sequence[str], options: Sequence[str]) -> int | None:
    """Samples per second of the real sound where it is what is judged; None where that of the files is.

    It is that of the real recordings: at that of files that are not heard a voice could lose what judges hear.
    """
    if _said("model.sound", files, options) != "reference":
        return None
    root = reference or _said("data.root", files, options)
    try:
        first = next(iter(listed_files(str(root))))
        return probe(first).sample_rate or _REAL_RATE
    except InputError:  # sets of other forms
        return _REAL_RATE


def _clip(generated: str, sample_rate: int | None) -> list[str]:
    """Options that describe the clips as the first generated file has them."""
    first = next(iter(listed_files(generated)))
    shape: ClipShape = shape_of(headers([first]), sample_rate)
    return [f"--clip.{name}={value}" for name, value in vars(shape).items() if value is not None]
