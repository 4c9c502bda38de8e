"""CUDA code for other GPUs than these, taken out of a library: it becomes zeros, which xz packs to nothing.

A library holds fat binaries, each with the same kernels for several architectures. Sizes and places stay as they are, so
the driver finds the code of its own architecture as before, and where there is none says that there is no kernel image.
"""
import struct

MAGIC = struct.pack("<IHH", 0xBA55ED50, 1, 16)  # number, version, size of the header; then the size of the rest, 8 bytes
ENTRY = struct.Struct("<HHIQ")  # kind (1 PTX, 2 machine code), version, size of this header, size of the code
ARCHITECTURE_AT = 28
SMALLEST_HEADER = 32


def entries(data):
    """(architecture, from, to) of each code in it."""
    at = data.find(MAGIC)
    while 0 <= at <= len(data) - 16:
        (size,) = struct.unpack_from("<Q", data, at + 8)
        entry, end = at + 16, at + 16 + size
        found = []
        while entry + SMALLEST_HEADER <= end <= len(data):
            _, _, header, code = ENTRY.unpack_from(data, entry)
            if header < SMALLEST_HEADER or entry + header + code > end:
                break
            (architecture,) = struct.unpack_from("<I", data, entry + ARCHITECTURE_AT)
            found.append((architecture, entry + header, entry + header + code))
            entry += header + code
        whole = size > 0 and entry == end  # else these bytes only look like a beginning
        if whole:
            yield from found
        at = data.find(MAGIC, end if whole else at + 1)


def keep_architectures(data, wanted):
    """Changes the bytearray. Returns bytes of code kept and removed, by architecture."""
    kept, removed = {}, {}
    for architecture, begin, end in list(entries(data)):
        sums = kept if architecture in wanted else removed
        sums[architecture] = sums.get(architecture, 0) + end - begin
        if architecture not in wanted:
            data[begin:end] = bytes(end - begin)
    return kept, removed
