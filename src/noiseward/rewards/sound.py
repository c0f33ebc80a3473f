r"""How sound is: the opinion listeners would have of speech, and whether there is speech.

Samples are waveforms `(B, T)` or `(B, C, T)`; channels are averaged, and the rate changed to 16 kHz by cutting or
extending the spectrum, which keeps the graph.

`dnsmos` is Microsoft's DNSMOS P.835, a network on the spectrogram whose three outputs go through published polynomials:
mean opinion scores from 1 to 5 of the whole, the signal and the background, over windows of 9.01 s. `vad` is Silero's
voice activity detector: per window of 32 ms, with a recurrent state from window to window, the probability of speech;
the reward is the mean. Both come inside packages of PyPI, MIT.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noiseward.errors import ArgumentError, RewardError, choices
from noiseward.rewards.checkpoints import Source, load_weights
from noiseward.rewards.onnx.model import OnnxModel
from noiseward.rewards.onnx.packages import find_file, read_initializers
from noiseward.rewards.preprocess import widen
from noiseward.rewards.reward import Reward

__all__ = ["DnsMos", "VoiceActivity", "dnsmos", "resample", "to_mono", "vad"]

RATE = 16_000
LONG = 144_160  # samples that DNSMOS takes, 9.01 s
POLYNOMIALS = {  # of the network's outputs, highest power first
    "signal": (0, (-0.08397278, 1.22083953, 0.0052439)),
    "background": (1, (-0.13166888, 1.60915514, -0.39604546)),
    "overall": (2, (-0.06766283, 1.11546468, 0.04602535)),
}
DETECTOR = "data/silero_vad_16k_op15.onnx"  # silero-vad 6.2 has other, earlier weights in its safetensors
PARTS = {
    "stft_conv.weight": "stft.forward_basis_buffer",
    **{f"conv{k + 1}.{kind}": f"encoder.{k}.reparam_conv.{kind}" for k in range(4) for kind in ("weight", "bias")},
    **{f"lstm_cell.{kind}_{way}": f"decoder.rnn.{kind}_{way}" for kind in ("weight", "bias") for way in ("ih", "hh")},
    **{f"final_conv.{kind}": f"decoder.decoder.2.{kind}" for kind in ("weight", "bias")},
}
WINDOW, CONTEXT = 512, 64  # of Silero's detector, in samples


def to_mono(sample: Tensor) -> Tensor:
    """Waveforms `(B, T)` of samples `(B, T)` or `(B, C, T)`.

    Raises:
        RewardError: they are none.
    """
    if sample.ndim not in (2, 3):
        raise RewardError(f"expected sound (B, T) or (B, C, T), got samples of shape {tuple(sample.shape)}")
    return sample.mean(1) if sample.ndim == 3 else sample


def resample(sound: Tensor, rate: int, new: int) -> Tensor:
    """Waveforms `(B, T)` at another rate, by their spectrum.

    Example:
        >>> resample(torch.ones(1, 480), 48_000, 16_000).shape
        torch.Size([1, 160])
    """
    if rate == new:
        return sound
    length = max(1, round(sound.shape[1] * new / rate))
    return torch.fft.irfft(torch.fft.rfft(sound), length) * (length / sound.shape[1])


@final
class DnsMos(Reward):
    """The opinion that listeners would have of speech, about 1 to 5.

    Arguments:
        model: DNSMOS P.835.
        kind: overall, signal or background.
        rate: of the samples, in Hz.
    """

    name = "dnsmos"

    def __init__(self, model: OnnxModel, *, kind: str, rate: int) -> None:
        if kind not in POLYNOMIALS:
            raise ArgumentError(
                f"kind must be overall, signal or background, got '{kind}'; {choices(kind, POLYNOMIALS)}"
            )
        self.model, self.differentiable, self.kind, self.rate = model, model.differentiable, kind, rate

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        sound = resample(widen(to_mono(sample)), self.rate, RATE)
        while sound.shape[1] < LONG:  # as its authors do: the sound again, until it is long enough
            sound = torch.cat([sound, sound], 1)
        hops = max(1, int(sound.shape[1] / RATE - 9.01) + 1)
        parts = [sound[:, hop * RATE : hop * RATE + LONG] for hop in range(hops)]
        place, (square, slope, rest) = POLYNOMIALS[self.kind]
        found = torch.stack([self.model(part)[:, place] for part in parts if part.shape[1] == LONG])
        return (square * found**2 + slope * found + rest).mean(0).to(sample.dtype)


@final
class VoiceActivity(Reward):
    """The mean probability of speech, from 0 to 1.

    Arguments:
        state: the weights, by the names of the published file.
        path: of their file, for messages.
        rate: of the samples, in Hz.
    """

    name, differentiable = "vad", True

    def __init__(self, state: dict[str, Tensor], path: Path, *, rate: int) -> None:
        self.rate = rate
        self.network = nn.ModuleDict(
            {
                "stft_conv": nn.Conv1d(1, 258, 256, stride=128, bias=False),
                "conv1": nn.Conv1d(129, 128, 3, padding=1),
                "conv2": nn.Conv1d(128, 64, 3, stride=2, padding=1),
                "conv3": nn.Conv1d(64, 64, 3, stride=2, padding=1),
                "conv4": nn.Conv1d(64, 128, 3, padding=1),
                "lstm_cell": nn.LSTMCell(128, 128),
                "final_conv": nn.Conv1d(128, 1, 1),
            }
        )
        load_weights(self.network, state, lambda name: Source(f"model.{PARTS[name]}"), path, ignored=("*",))
        self.network.eval().requires_grad_(False)

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        sound = resample(widen(to_mono(sample)), self.rate, RATE)
        sound = F.pad(sound, (CONTEXT, -sound.shape[1] % WINDOW))
        network, state, found = self.network.to(sound), None, []
        for begin in range(CONTEXT, sound.shape[1], WINDOW):
            part = F.pad(sound[:, None, begin - CONTEXT : begin + WINDOW], (0, 64), mode="reflect")
            wave = network["stft_conv"](part)
            hidden = (wave[:, :129].square() + wave[:, 129:].square()).clamp(min=1e-24).sqrt()
            for layer in ("conv1", "conv2", "conv3", "conv4"):
                hidden = network[layer](hidden).relu()
            state = network["lstm_cell"](hidden.squeeze(2), state)
            found.append(network["final_conv"](state[0][:, :, None].relu()).sigmoid().flatten())
        return torch.stack(found).mean(0).to(sample.dtype)


def dnsmos(kind: str = "overall", *, rate: int = RATE, gradient: str = "auto") -> DnsMos:
    """The opinion that listeners would have of speech, by DNSMOS.

    Arguments:
        kind: overall, signal or background.
        rate: of the samples, in Hz.
        gradient: auto, yes, or no.
    """
    path = find_file("speechmos", "dnsmos_models/sig_bak_ovr.onnx", extra="sound", name="reward 'dnsmos'")
    return DnsMos(OnnxModel(path, gradient=gradient, name="dnsmos"), kind=kind, rate=_check_rate(rate))


def vad(*, rate: int = RATE) -> VoiceActivity:
    """The mean probability of speech, by Silero's detector.

    Arguments:
        rate: of the samples, in Hz.
    """
    path = find_file("silero_vad", DETECTOR, extra="sound", name="reward 'vad'")
    return VoiceActivity(read_initializers(path, name="reward 'vad'"), path, rate=_check_rate(rate))


def _check_rate(rate: int) -> int:
    if rate < 1:
        raise ArgumentError(f"rate must be >= 1, got {rate}")
    return rate
