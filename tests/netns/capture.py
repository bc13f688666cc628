"""`python -m tests.netns.capture FILE`: writes every packet of this namespace to a file, until it is ended."""

import socket
import sys

ALL_PROTOCOLS = 0x0003

if __name__ == "__main__":
    with (
        open(sys.argv[1], "wb", buffering=0) as file,  # noqa: PTH123
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS)) as packets,
    ):
        while True:
            file.write(packets.recv(65536))
