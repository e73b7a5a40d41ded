"""The same image in every supported file format, and the pixels that a viewer shows."""

import base64
import io
import json

import numpy as np
from PIL import Image

SIZE = (120, 90)
"""Width and height, px."""


def scene():
    """An image with different corners, so that rotations and mirroring are detectable."""
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    pixels = np.stack([x * 2, y * 2, 255 - x], axis=-1).astype(np.uint8)
    pixels[:30, :40] = (250, 30, 30)
    pixels[-20:, -50:] = (20, 220, 90)
    return Image.fromarray(pixels)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image=None, **options):
    return encoded(image or scene(), "JPEG", quality=95, **options)


def variants():
    """Returns name to file content: viewers show each as `scene()` up to rounding, the `grey` ones in greyscale."""
    plain = scene()
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation 6: rotate by 90 degrees clockwise
    grey16 = Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257)
    opaque = plain.convert("RGBA")
    other = Image.new("RGB", SIZE, "black")
    return {
        "jpeg": jpeg(),
        "rotated by exif": jpeg(plain.transpose(Image.Transpose.ROTATE_90), exif=exif),
        "cmyk": jpeg(plain.convert("CMYK")),
        "png": encoded(plain, "PNG"),
        "webp": encoded(plain, "WEBP", lossless=True),
        "opaque alpha": encoded(opaque, "PNG"),
        "animated webp": encoded(plain, "WEBP", lossless=True, save_all=True, append_images=[other]),
        "animated png": encoded(plain, "PNG", save_all=True, append_images=[other]),
        "tiff": encoded(plain, "TIFF"),
        "bmp": encoded(plain, "BMP"),
        "grey": jpeg(plain.convert("L")),
        "grey 16 bit": encoded(grey16, "PNG"),
        "grey and alpha": encoded(plain.convert("LA"), "PNG"),
    }


def half_transparent():
    """Returns a PNG with a transparent half, and how a viewer shows it."""
    image, shown = scene().convert("RGBA"), scene()
    image.paste((0, 0, 0, 0), (0, 0, 60, 90))
    shown.paste((255, 255, 255), (0, 0, 60, 90))
    return encoded(image, "PNG"), shown


def as_json(*images):
    texts = [base64.b64encode(content).decode() for content in images]
    return json.dumps({"instances": texts})


def png_of_size(width, height):
    """Returns a PNG whose header declares `width` x `height` px, with too little data."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
