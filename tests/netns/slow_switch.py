"""A switch between TAP devices that keeps every frame for a while: the kernel's netem is not everywhere.

`python -m tests.netns.slow_switch DELAY_S DEVICE ...` makes the devices, says "ready", and switches until it is ended.
"""

import asyncio
import fcntl
import os
import struct
import sys

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
LONGEST_FRAME = 65_600


class SlowSwitch:
    """Learns where an address is from what comes from there, as switches do."""

    def __init__(self, devices: list[str], delay_s: float) -> None:
        self._delay_s = delay_s
        self._ports = [_open(device) for device in devices]
        self._places: dict[bytes, int] = {}
        self._loop = asyncio.get_running_loop()
        for port in self._ports:
            self._loop.add_reader(port, self._take, port)

    def _take(self, port: int) -> None:
        while True:
            try:
                frame = os.read(port, LONGEST_FRAME)
            except OSError:  # nothing more has come, or the device is down
                return
            self._places[frame[6:12]] = port
            self._loop.call_later(self._delay_s, self._give, port, frame)

    def _give(self, origin: int, frame: bytes) -> None:
        place = self._places.get(frame[:6])
        for port in [place] if place is not None else [other for other in self._ports if other != origin]:
            try:
                os.write(port, frame)
            except OSError:  # the device is down, or full: a frame may be lost, as on any network
                continue


def _open(device: str) -> int:
    port = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(port, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TAP | IFF_NO_PI))
    return port


async def _main() -> None:
    switch = SlowSwitch(sys.argv[2:], float(sys.argv[1]))
    print("ready", flush=True)  # noqa: T201  for whoever started it
    await asyncio.Event().wait()
    del switch


if __name__ == "__main__":
    asyncio.run(_main())
