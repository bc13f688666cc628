"""How many files this process may have open: each connection is one."""

import resource

OWN = 512  # the ranks' sockets and pipes, logs, libraries


def room_for(connections: int) -> int:
    """Raises the soft limit as far as it goes and as it must. Returns how many connections fit, at most as asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OWN
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    reachable = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    return min(connections, max(1, reachable - OWN))
