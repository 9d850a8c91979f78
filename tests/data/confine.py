"""Runs a program as a container would: as another user, with the system calls of a seccomp profile.

    confine.py PROFILE.json PROGRAM [ARGUMENT …]

The profile is one of Docker's form with names alone. Needs libseccomp, and root for the user.
"""

import ctypes
import json
import os
import sys

ACTIONS = {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_ERRNO": 0x00050000}
PR_SET_NO_NEW_PRIVS = 38


def main():
    with open(sys.argv[1]) as file:
        profile = json.load(file)
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
    ]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    default = ACTIONS[profile["defaultAction"]] | profile["defaultErrnoRet"]
    calls = library.seccomp_init(ctypes.c_uint32(default))
    for entry in profile["syscalls"]:
        for name in entry["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number == -1:
                # as a runtime does: a library that is older than the call does not know it
                print(f"confine: libseccomp does not know {name}", file=sys.stderr)
                continue
            added = library.seccomp_rule_add_array(calls, ACTIONS[entry["action"]], number, 0, None)
            if added != 0:
                sys.exit(f"confine: {name}: {os.strerror(-added)}")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(4321, 4321, 4321)
        os.setresuid(4321, 4321, 4321)
    library_c = ctypes.CDLL(None, use_errno=True)
    if library_c.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        sys.exit("confine: no_new_privs")
    loaded = library.seccomp_load(calls)
    if loaded != 0:
        sys.exit(f"confine: {os.strerror(-loaded)}")
    os.execvp(sys.argv[2], sys.argv[2:])


main()
