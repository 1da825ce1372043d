#!/usr/bin/env python3
"""A Modbus server by pymodbus, filled so that every register has its own number (the formula of tests/foreign/memory.rs).

pymodbus does all that is on the wire: sockets, serial port, framing, PDUs, exceptions. Only the memory is here.

    pymodbus_server.py tcp PORT | rtu-over-tcp PORT | rtu PATH [BAUD]      (PORT 0: any free one)

A serial line is opened without parity: a pty has none, and pyserial passes on that glibc says so (EINVAL).

Control, one command a line on stdin, each answered with one line on stdout (`ok`, `listening PORT` or `error …`):

    set UNIT TABLE ADDRESS WORD…   overrides words; TABLE is coil, discrete, holding or input
    delay MILLISECONDS             before each answer
    mute UNIT | unmute UNIT        that unit doesn't answer
    count ADDRESS                  from now on, this holding register of each unit holds how often it was read
    reads UNIT                     how often that was: `reads NUMBER`
    stop                           closes the listener and every connection
    start                          listens again, on the same port
The server ends when stdin closes, so it never outlives the test that started it.
"""

import asyncio
import logging
import sys

from pymodbus import FramerType
from pymodbus.constants import ExcCodes
from pymodbus.exceptions import NoSuchIdException
from pymodbus.server import ModbusSerialServer, ModbusTcpServer

READ_FUNCTION = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}


def word(function, unit, address):
    """The number that a register holds until it is overridden."""
    return (address * 31153 + function * 8191 + unit * 257 + 4660) & 0xFFFF


class Memory:
    """What pymodbus asks for values."""

    def __init__(self):
        self.overrides = {}
        self.muted = set()
        self.delay = 0.0
        self.counter = None
        self.reads = {}

    def device_ids(self):
        return list(range(256))

    def value(self, function, unit, address):
        found = self.overrides.get((function, unit, address))
        if found is None:
            found = word(function, unit, address)
            found = found >> 7 & 1 if function < 3 else found
        return bool(found) if function < 3 else found

    async def async_getValues(self, device_id, func_code, address, count=1):
        if device_id in self.muted:
            raise NoSuchIdException(f"unit {device_id} is mute")
        if self.delay:
            await asyncio.sleep(self.delay)
        if address + count > 65536:
            return ExcCodes.ILLEGAL_ADDRESS
        if func_code == 3 and self.counter is not None and address <= self.counter < address + count:
            self.reads[device_id] = self.reads.get(device_id, 0) + 1
            self.overrides[(3, device_id, self.counter)] = self.reads[device_id]
        return [self.value(func_code, device_id, at) for at in range(address, address + count)]

    async def async_setValues(self, _device_id, _func_code, _address, _values):
        return ExcCodes.ILLEGAL_FUNCTION


class Peer:
    """One listener that can be stopped and started."""

    def __init__(self, kind, place, baud):
        self.kind, self.place, self.baud = kind, place, baud
        self.memory = Memory()
        self.server = None

    async def start(self):
        # An empty context is refused by pymodbus, so it is built with a small one, which the memory replaces.
        from pymodbus.simulator import DataType, SimData, SimDevice

        device = SimDevice(0, simdata=[SimData(0, values=0, datatype=DataType.REGISTERS)])
        if self.kind == "rtu":
            self.server = ModbusSerialServer(
                device, framer=FramerType.RTU, port=self.place, baudrate=self.baud, ignore_missing_devices=True
            )
        else:
            framer = FramerType.SOCKET if self.kind == "tcp" else FramerType.RTU
            self.server = ModbusTcpServer(
                device, framer=framer, address=("127.0.0.1", int(self.place)), ignore_missing_devices=True
            )
        self.server.context = self.memory
        await self.server.serve_forever(background=True)
        if self.kind != "rtu":
            self.place = self.server.transport.sockets[0].getsockname()[1]
        return f"listening {self.place}"

    async def stop(self):
        await self.server.shutdown()
        self.server = None
        return "ok"

    async def command(self, words):
        match words:
            case ["set", unit, table, address, *values] if values:
                for offset, value in enumerate(values):
                    key = (READ_FUNCTION[table], int(unit), int(address) + offset)
                    self.memory.overrides[key] = int(value, 0)
            case ["delay", milliseconds]:
                self.memory.delay = int(milliseconds) / 1000
            case ["mute", unit]:
                self.memory.muted.add(int(unit))
            case ["unmute", unit]:
                self.memory.muted.discard(int(unit))
            case ["count", address]:
                self.memory.counter = int(address)
            case ["reads", unit]:
                return f"reads {self.memory.reads.get(int(unit), 0)}"
            case ["stop"]:
                return await self.stop()
            case ["start"]:
                return await self.start()
            case _:
                return f"error: unknown command {words}"
        return "ok"


async def main():
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    kind, place = sys.argv[1], sys.argv[2]
    peer = Peer(kind, place, int(sys.argv[3]) if len(sys.argv) > 3 else 19200)
    print(await peer.start(), flush=True)
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    while line := await stdin.readline():
        try:
            print(await peer.command(line.decode().split()), flush=True)
        except Exception as error:  # the test must see it, whatever it is
            print(f"error: {error!r}", flush=True)


asyncio.run(main())
