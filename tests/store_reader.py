#!/usr/bin/env python3
"""A second reader of taktbus stores, made from the specification in src/store/format.rs alone.

    store_reader.py FOLDER

prints what waits as JSON lines, in order: position, epoch, seq, device, topic, payload; then the gaps that are owed.
"""

import json
import pathlib
import struct
import sys
import zlib

HEADER, BLOCK, FRAME, MOST_BODY = 64, 64 << 10, 8, 1 << 20


def bodies(number, data):
    offset = HEADER
    while offset + FRAME <= len(data):
        end_of_block = (offset // BLOCK + 1) * BLOCK
        length, crc = struct.unpack_from("<II", data, offset) if end_of_block - offset >= FRAME else (0, 0)
        end = offset + FRAME + length
        body = data[offset + FRAME : end]
        fits = 0 < length <= MOST_BODY and end <= len(data) and (end <= end_of_block or offset % BLOCK == 0)
        if fits and zlib.crc32(struct.pack("<QQ", number, offset) + body) == crc:
            yield body
            offset = end
        else:
            offset = end_of_block


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def text(self):
        length = self.take("H")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def rest(self):
        return self.data[self.at :]


def read(folder):
    segments = []
    for path in sorted(pathlib.Path(folder).glob("*.seg")):
        number, data = int(path.stem, 16), path.read_bytes()
        segments.append((number, list(bodies(number, data))))

    messages, settled, gaps = {}, set(), {}

    def settle(first, last):
        settled.update(p for p in range(first, min(last, max(messages, default=-1)) + 1) if p in messages)

    for _, records in segments:
        for body in records:
            cursor = Cursor(body)
            kind = cursor.take("B")
            if kind in (1, 7):
                _doubted = [cursor.take(form) for form in "Qq"] if kind == 7 else None
                position, epoch, seq, _at, _late = (cursor.take(form) for form in "QQQqB")
                device, topic = cursor.text(), cursor.text()
                messages[position] = (epoch, seq, device, topic, cursor.rest().decode())
            elif kind == 2:
                while cursor.rest():
                    settle(cursor.take("Q"), cursor.take("Q"))
            elif kind == 5:
                positions = [(cursor.take("Q"), cursor.take("Q")) for _ in range(cursor.take("I"))]
                epoch, first, last = (cursor.take("Q") for _ in range(3))
                device, _topic, reason = cursor.text(), cursor.text(), cursor.text()
                for seq in range(first, last + 1):
                    gaps.setdefault((device, epoch, seq), reason)
                for first, last in positions:
                    settle(first, last)
            elif kind == 6:
                epoch, first, last = (cursor.take("Q") for _ in range(3))
                device = cursor.text()
                for seq in range(first, last + 1):
                    gaps.pop((device, epoch, seq), None)
    waiting = [(position, *messages[position]) for position in sorted(messages) if position not in settled]
    return waiting, gaps


if __name__ == "__main__":
    waiting, gaps = read(sys.argv[1])
    for position, epoch, seq, device, topic, payload in waiting:
        print(json.dumps({"position": position, "epoch": epoch, "seq": seq, "device": device, "topic": topic, "payload": payload}))
    for (device, epoch, seq), reason in sorted(gaps.items()):
        print(json.dumps({"device": device, "epoch": epoch, "gap": seq, "reason": reason}))
