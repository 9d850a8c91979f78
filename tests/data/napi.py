"""Has a veth interface take in what its peer sends as a network card does: by NAPI.

A veth does so where it has GRO and its peer sends no segments that are yet to be cut: call this for
both. ethtool(8) would do it as well, and is not installed everywhere.
"""

import ctypes
import fcntl
import socket
import struct
import sys

SIOCETHTOOL = 0x8946
ETHTOOL_SGRO = 0x2C
ETHTOOL_STSO = 0x1F

for command, is_on in [(ETHTOOL_SGRO, 1), (ETHTOOL_STSO, 0)]:
    value = ctypes.create_string_buffer(struct.pack("II", command, is_on))
    name = sys.argv[1].encode()
    request = struct.pack("16sP16x", name, ctypes.addressof(value))
    fcntl.ioctl(socket.socket(), SIOCETHTOOL, request)
