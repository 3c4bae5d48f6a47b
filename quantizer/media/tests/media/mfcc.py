"""Prints the features that sounds.rs expects of a procedural recording, straight from the definitions: python mfcc.py"""

import numpy as np

rate, samples, frame, hop, fft, mel, lower, upper, floor, coefficients = 8000, 200, 80, 60, 128, 10, 60, 3800, 1e-6, 4
divisors = np.array([2, 0.5, -1, 3])

i = np.arange(150)  # and silence behind
x = np.pad(((i * i * 37) % 2001 - 1000) * 16 / 32768, (0, samples - len(i)))
frames = np.stack([x[s : s + frame] for s in range(0, samples - frame + 1, hop)])
window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)


def to_mel(f):
    return 1127 * np.log(1 + f / 700)


edges = np.linspace(to_mel(lower), to_mel(upper), mel + 2)
places = to_mel(np.arange(fft // 2 + 1) * rate / fft)
rise = (places[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
fall = (edges[2:] - places[:, None]) / (edges[2:] - edges[1:-1])
weights = np.maximum(0, np.minimum(rise, fall))
weights[0] = 0
m, c = np.arange(mel), np.arange(coefficients)
cosines = np.sqrt(2 / mel) * np.cos(np.pi * np.outer(c, m + 0.5) / mel)

spectrum = np.abs(np.fft.rfft(frames * window, fft))
for name, s in (("magnitude", spectrum), ("power", spectrum**2)):
    print(name, (np.log(np.maximum(s @ weights, floor)) @ cosines.T / divisors).round(5).ravel().tolist())
