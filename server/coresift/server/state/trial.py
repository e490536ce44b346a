"""Whether the user of the state URL may do what the store does.

The least that an ACL must allow is `ACL_RULE` (to sentinels: `SENTINEL_ACL_RULE`).
"""

from __future__ import annotations

from redis.exceptions import NoPermissionError

from coresift.server.state import scripts
from coresift.server.state.server import Server

COMMANDS = (
    *("del", "exists", "get", "mget", "pexpire", "pttl", "set", "unlink", "time"),
    *("hset", "hget", "hmget", "hgetall", "hexists", "hdel"),
    *("sadd", "smembers", "smismember", "srandmember", "srem"),
    *("zadd", "zcount", "zmscore", "zrange", "zrangebylex", "zrangebyscore", "zscore", "zrem"),
    *("xadd", "xrange", "xrevrange"),
    *("eval", "evalsha", "info", "wait"),
)
CLUSTER_COMMANDS = ("asking", "cluster|info", "cluster|slots")
ACL_RULE = f"resetchannels ~coresift:* -@all {' '.join(f'+{name}' for name in COMMANDS)}"
"""Of ``ACL SETUSER name on >password ...``; in a cluster with `CLUSTER_COMMANDS` too."""
SENTINEL_ACL_RULE = "-@all +sentinel|get-master-addr-by-name"

_FORBIDDEN = ("user executing the script can't", "ACL failure", "NOPERM")
"""How Redis 6.2, 7.0 and newer ones say that a user may not."""


def is_forbidden(error: str) -> bool:
    """Whether an error of Redis says that the user may not."""
    return any(words in error for words in _FORBIDDEN)


async def forbidden(server: Server, piece: str) -> str:
    """The commands that the user may not run, with Redis' words; empty if there are none.

    Other refusals (no memory, no disk) are no matter of permissions and pass.

    Args:
        piece: ``{piece}`` lies on this server.
    """
    key = f"coresift:trial:{{{piece}}}"
    call = scripts.TRIAL.call([key], [])
    replies = await server.exchange(
        [("EVAL", scripts.TRIAL.source, *call[1:]), ("EVALSHA", *call), ("WAIT", 0, 1)]
    )
    refused = {
        name: str(reply)
        for name, reply in zip(("eval", "evalsha", "wait"), replies, strict=True)
        if isinstance(reply, NoPermissionError)
    }
    if isinstance(replies[0], list):
        for name, error in zip(replies[0][::2], replies[0][1::2], strict=True):
            text = error.decode("utf-8", "replace")
            if is_forbidden(text):
                refused.setdefault(name.decode().lower(), text)
    if not refused:
        return ""
    return f"{', '.join(sorted(refused))} ({next(iter(refused.values()))})"
