"""The audio VAE and vocoder of MMAudio as an `AudioCodec`: 16 kHz (31.25 Hz, 20 channels) or 44.1 kHz (43.07 Hz, 40).

Cheng et al., "MMAudio: Taming Multimodal Joint Training for High-Quality Video-to-Audio Synthesis" (2024), section 3.2
and appendix; the networks are diffusers'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from components.codecs.audio.mmaudio_checkpoint import VARIANTS, VariantName, load_vae, load_vocoder
from components.codecs.latent_statistics import ChannelNormalisation
from components.codecs.no_autocast import no_autocast
from components.codecs.posterior import DiagonalGaussian, latents_of
from components.contracts import AudioCodec, LatentMoments
from components.errors import InputError
from components.weights.digests import Sha256
from components.weights.identity import identity_of, inherit_identity
from components.weights.named_files import names_files, of_no_consequence
from components.weights.pretrained import builds_shapes_only, dtype_named


@names_files("statistics", vae="vae_subfolder", vocoder="vocoder_subfolder")
@of_no_consequence("vocoder", "vocoder_subfolder")
class MMAudioCodec(AudioCodec):
    """Waveform to log-mel spectrogram to VAE latents, and back through the VAE and a BigVGAN vocoder.

    Two mel frames make one latent. Both networks are frozen; mel spectrogram, latents and waveform are float32.

    Args:
        vae: diffusers folder (or hub repository, ``hf://owner/name``) of an ``MMAudioVAE``, or MMAudio's ``v1-16.pth``
            or ``v1-44.pth``.
        vocoder: diffusers folder of an ``MMAudioVocoder``, BigVGAN folder with ``bigvgan_generator.pt``, or
            ``best_netG.pt``; None if nothing will be decoded (it has 110 M parameters).
        variant: ``16k`` (decimal log-mels, BigVGAN v1) or ``44k`` (natural log-mels, BigVGAN v2).
        vae_subfolder: where the VAE lies in its folder.
        vocoder_subfolder: where the vocoder lies in its folder.
        statistics: file of `LatentStatistics` of the training set, for normalised latents; None multiplies by the
            VAE's ``scaling_factor``.
        mel_log: overrides the variant's logarithm (``ln`` or ``log10``), for VAEs trained on the other one.
        dtype: what the networks compute in.
        vae_sha256: digest of ``vae``, or of files in that folder by their names (see `components.weights.digests`).
        vocoder_sha256: the same for ``vocoder``.

    Raises:
        InputError: if a file cannot be used, or VAE and vocoder do not belong together.
    """

    def __init__(
        self,
        vae: str | Path,
        vocoder: str | Path | None = None,
        variant: VariantName = "16k",
        vae_subfolder: str | None = None,
        vocoder_subfolder: str | None = None,
        statistics: str | Path | None = None,
        mel_log: Literal["ln", "log10"] | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        vae_sha256: Sha256 = None,
        vocoder_sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise InputError(f"variant is '{variant}'; give one of {', '.join(VARIANTS)}")
        release = VARIANTS[variant]
        network = load_vae(vae, vae_subfolder, release, vae_sha256)
        # the mel front end is float32 whatever the networks are: logarithms of quiet bands have few bits to lose
        self.mel = network.mel_converter.float()
        self.autoencoder = network.vae.to(dtype_named(dtype))
        self.vocoder = None
        if vocoder is not None:
            self.vocoder = load_vocoder(vocoder, vocoder_subfolder, release, dtype_named(dtype), vocoder_sha256)
            _check_pair(network.config, self.vocoder.config)
        self.requires_grad_(False).eval()
        self.log10 = release.log10 if mel_log is None else mel_log == "log10"
        self.sample_rate = network.config.sample_rate
        self.latent_hop = network.latent_hop_length
        self.latent_channels = network.config.latent_channels
        inherit_identity(self, network)  # latents depend on the VAE alone
        weights = "no weights" if builds_shapes_only() else identity_of(self).sha256
        self.latent_identity = f"{weights} on {'log10' if self.log10 else 'ln'} mels"
        # whose statistics they are can be told where there are weights alone
        owner = "" if builds_shapes_only() else self.latent_identity
        self.normalisation = (
            ChannelNormalisation.scaled(self.latent_channels, network.config.scaling_factor)
            if statistics is None
            else ChannelNormalisation.from_file(statistics, self.latent_channels, owner)
        )

    def encode(self, waveform: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Waveform to normalised latents.

        Args:
            waveform: ``[B, S]`` in [-1, 1], best of whole latents (see `fit`): what is left over shows only in the last
                latents' surroundings.
            generators: one for each clip, to draw from its posterior; None takes the posterior's mean.

        Returns:
            float32 ``[B, C, S // latent_hop]``.

        Raises:
            InputError: if the waveform is shorter than the front end's padding.
        """
        result: Tensor = self.normalisation(latents_of(self.posterior(waveform), generators))
        return result

    def moments(self, waveform: Tensor) -> LatentMoments:
        """Normalised mean and deviation of the posterior; see `encode`."""
        posterior = self.posterior(waveform)
        return LatentMoments(self.normalisation(posterior.mean), self.normalisation.scale(posterior.std))

    def posterior(self, waveform: Tensor) -> DiagonalGaussian:
        """Posterior over the raw (not normalised) latents of ``waveform`` ``[B, S]``, in float32.

        Raises:
            InputError: if the waveform is shorter than the front end's padding.
        """
        mel = self.log_mel(waveform)
        with no_autocast(mel.device):
            moments = self.autoencoder.encode(mel.to(self.autoencoder.encoder.conv_in.weight.dtype))
        return DiagonalGaussian.from_moments(moments.float())

    def log_mel(self, waveform: Tensor) -> Tensor:
        """The front end: ``[B, S]`` to log-mels float32 ``[B, mels, S // mel hop]``.

        Raises:
            InputError: if the waveform is shorter than the front end's padding.
        """
        # reflection padding of (n_fft - hop) / 2 on either side, without centring, as in BigVGAN's front end
        least = (self.mel.n_fft - self.mel.hop_length) // 2 + 1  # a reflection cannot be longer than the sound
        if waveform.shape[-1] < least:
            raise InputError(
                f"a sound of {waveform.shape[-1]} samples is too short for MMAudio's front end, which needs {least}: "
                "pad it with fit()"
            )
        with no_autocast(waveform.device):
            mel: Tensor = self.mel(waveform.float())
        return mel / math.log(10) if self.log10 else mel  # ln to log10: MMAudio's 16 kHz release has decimal mels

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents ``[B, C, N]`` to a waveform ``[B, N * latent_hop]`` in [-1, 1].

        Raises:
            InputError: if there is no vocoder.
        """
        if self.vocoder is None:
            raise InputError("this MMAudio codec was built without a vocoder and cannot decode: set vocoder")
        mel = self.decode_mel(latents).to(self.vocoder.conv_pre.weight.dtype)
        with no_autocast(mel.device):
            waveform: Tensor = self.vocoder(mel).sample.squeeze(1)
        return waveform.float()

    def decode_mel(self, latents: Tensor) -> Tensor:
        """Normalised latents ``[B, C, N]`` to log-mels ``[B, mels, 2 N]``, in the variant's logarithm."""
        raw = self.normalisation.inverse(latents)
        with no_autocast(raw.device):
            mel: Tensor = self.autoencoder.decode(raw.to(self.autoencoder.decoder.conv_in.weight.dtype))
        return mel.float()


def _check_pair(vae: Any, vocoder: Any) -> None:
    """Refuses a vocoder that does not turn the VAE's mels into sound of the VAE's rate."""
    factor = math.prod(vocoder.upsample_rates)
    pairs = {
        "mel bands": (vae.mel_bins, vocoder.num_mels),
        "samples per mel frame": (vae.hop_length, factor),
    }
    for what, (wanted, found) in pairs.items():
        if wanted != found:
            raise InputError(f"the VAE has {wanted} {what} but the vocoder {found}: take both from one release")
