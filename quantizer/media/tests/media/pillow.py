"""Writes what Pillow makes of a procedural picture: python pillow.py > pillow.txt

Each line: height and width of the source, the settings in quotes, and the bytes of the result in hexadecimal.
The crop is of the middle, from (side - cropped) // 2, as in transformers. Made with Pillow 12.0.0: from 13 on,
pictures that shrink mostly in height are resized in another order, and some bytes differ.
"""

from PIL import Image

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def source(height, width):
    """Slopes, hard edges and noise: the same formula as in pictures.rs."""
    noise, data = 1, bytearray()
    for y in range(height):
        for x in range(width):
            noise = (noise * 1103515245 + 12345) % 2**31
            data += bytes(((7 * x + 3 * y) % 256, 255 * ((x // 3 + y // 2) % 2), (noise >> 16) % 256))
    return Image.frombytes("RGB", (width, height), bytes(data))


def prepared(picture, settings):
    words = settings.split()
    crop = tuple(map(int, words[-1].split("x")))
    if words[0] == "short":
        long, short = max(picture.size), min(picture.size)
        longer = int(int(words[1]) * long / short)
        size = (longer, int(words[1])) if picture.width >= picture.height else (int(words[1]), longer)
        picture = picture.resize(size, FILTERS[words[2]])
    elif words[0] == "stretch":
        height, width = map(int, words[2].split("x"))
        picture = picture.resize((width, height), FILTERS[words[1]])
    top, left = (picture.height - crop[0]) // 2, (picture.width - crop[1]) // 2
    return picture.crop((left, top, left + crop[1], top + crop[0]))


CASES = [
    *((23, 31, f"stretch {f} 7x9") for f in FILTERS),
    *((5, 4, f"stretch {f} 8x11") for f in FILTERS),
    (23, 31, "stretch bicubic 23x9"),
    (23, 31, "stretch bicubic 7x31 crop 7x9"),
    (31, 23, "short 11 bicubic crop 9x9"),
    (23, 31, "short 12 bilinear crop 8x9"),
    (9, 40, "short 10 lanczos crop 6x10"),
    (12, 12, "crop 5x7"),
    (97, 3, "short 9 nearest crop 8x8"),
    (40, 9, "stretch bicubic 5x12"),
    (1, 1, "stretch lanczos 3x4"),
]

if __name__ == "__main__":
    for height, width, settings in CASES:
        result = prepared(source(height, width), settings)
        print(f'{height} {width} "{settings}" {result.tobytes().hex()}')
