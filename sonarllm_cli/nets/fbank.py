"""Sound → what a speech encoder reads: Kaldi's log mel features, standardised, two frames a step.

    step_SF = steps(samples_N)          # 16 kHz, mono, float32 in [−1, 1)

Framing runs in float32 in Kaldi's order and the Fourier transform in float64: together they are within 7e-5 of
kaldi-native-fbank, also in bins that hold nothing but rounding noise, where any other way is off by 0.2 to 0.8.

Legend: N samples, T frames (25 ms every 10 ms), S steps (20 ms), W samples of a frame, F features of a step.
Source: Kaldi's `compute-fbank-feats` as in kaldi-native-fbank; fairseq2's `WaveformToFbankConverter`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..io.audio import RATE

FRAME, SHIFT, PADDED = 400, 160, 512  # samples
BINS = 80
FEATURES = 2 * BINS
STEP = 2 * SHIFT  # samples of a step
LEAST = FRAME + SHIFT  # samples of two frames: with fewer there is no deviation to divide by
FLOOR = 1.1920929e-07  # float32's epsilon


def steps(samples_N: np.ndarray | Tensor) -> Tensor:
    """Standardised features in pairs of frames; an odd last frame falls away: samples_N → step_SF, float32.

    ValueError, in words for a message, where there is nothing to hear: too short, or the same all the time.
    """
    frame_TB = standardised(log_mel(samples_N))
    return frame_TB[: len(frame_TB) // 2 * 2].reshape(-1, FEATURES)


def log_mel(samples_N: np.ndarray | Tensor) -> Tensor:
    """Log energies of 80 mel bins a frame, whole frames only: samples_N → energy_TB, float32."""
    samples_N = torch.as_tensor(samples_N, dtype=torch.float32)
    if len(samples_N) < LEAST:
        raise ValueError(f"{1000 * len(samples_N) / RATE:.0f} ms are too short: {1000 * LEAST / RATE:.0f} are needed")
    frame_TW = (samples_N * 2**15).unfold(0, FRAME, SHIFT).contiguous()
    total_T1 = np.add.accumulate(frame_TW.numpy(), axis=1)[:, -1:]  # one by one, as Kaldi does
    frame_TW = frame_TW - torch.from_numpy(total_T1 / np.float32(FRAME))
    before_TW = torch.cat([frame_TW[:, :1], frame_TW[:, :-1]], 1)
    frame_TW = (frame_TW - 0.97 * before_TW) * _window()
    wave_TK = torch.fft.rfft(frame_TW.double(), PADDED).to(torch.complex64)[:, :-1]  # the last bin has no weight
    power_TK = wave_TK.real.square() + wave_TK.imag.square()
    return (power_TK @ _triangles().T).clamp_min(FLOOR).log()


def standardised(energy_TB: Tensor) -> Tensor:
    """Each bin less its mean, over its unbiased deviation in time; a bin that never changes is 0.

    ValueError where none does, as in digital silence.
    """
    deviation_B, mean_B = torch.std_mean(energy_TB, dim=0)
    if not deviation_B.any():
        raise ValueError("there is no sound in it, only digital silence or a constant")
    return torch.where(deviation_B > 0, (energy_TB - mean_B) / deviation_B, 0.0)


@cache
def _window() -> Tensor:
    """Povey's window: a Hann window to the power 0.85."""
    turn_W = 2 * np.pi / (FRAME - 1) * np.arange(FRAME)
    return torch.from_numpy(((0.5 - 0.5 * np.cos(turn_W)) ** 0.85).astype(np.float32))


@cache
def _triangles() -> Tensor:
    """Weight of each Fourier bin in each mel bin: equal steps of mel from 20 Hz to 8 kHz, linear in mel. → weight_BK"""

    def mel(hertz: np.ndarray) -> np.ndarray:
        return np.float32(1127) * np.log(np.float32(1) + hertz / np.float32(700))

    low, high = mel(np.array([20, RATE / 2], np.float32))
    step = (high - low) / np.float32(BINS + 1)
    left, centre, right = (low + np.arange(i, BINS + i, dtype=np.float32)[:, None] * step for i in range(3))
    at_K = mel(np.arange(PADDED // 2, dtype=np.float32) * np.float32(RATE / PADDED))
    rising, falling = (at_K - left) / (centre - left), (right - at_K) / (right - centre)
    return torch.from_numpy(np.where((at_K > left) & (at_K < right), np.minimum(rising, falling), np.float32(0)))
