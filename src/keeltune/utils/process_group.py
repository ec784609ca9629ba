"""The group of the processes that train together: joined first of all, and left by all of them together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count

from keeltune.utils import current_watch
from keeltune.utils.distributed import is_main_process, world_size
from keeltune.utils.errors import KeeltuneError, Stopped
from keeltune.utils.heartbeat import Heartbeat, store_connection
from keeltune.utils.rank_watch import RankWatch

JOINING = 600.0
"""Seconds in which all processes must have been started: they import the same libraries, perhaps from one slow disk."""

PATIENCE = 1800.0
"""Seconds that one process may keep the others waiting in an operation, where the recipe does not say it."""

FOREVER = timedelta(days=30)
"""What torch itself waits: who is lost and who is late is judged by the watch, and a long scoring is neither."""

_sessions = count()


@contextmanager
def joined() -> Iterator[None]:
    """Within: the processes of the launcher are a group, and end together (`rank_watch.py`). One alone is none.

    Raises: Stopped where another one is lost or was never started; where another one failed, a KeeltuneError with its
        message and exit status. `error.said`: another process shows the message.
    """
    if world_size() == 1 or current_watch.current() is not None:
        yield
        return
    with current_watch.watched(_join()) as watch:
        try:
            with current_watch.other_ranks_errors():
                yield
        except KeeltuneError as error:
            if error is not watch.raised:
                error.said = not watch.fail(str(error), error.exit_status)
            raise
        except BaseException as error:
            watch.fail(f"{type(error).__name__}: {error}", 130 if isinstance(error, KeyboardInterrupt) else 1)
            raise


def _join() -> RankWatch:
    """Makes the group, and the watch over it.

    It is not left to accelerate, which makes it when the data is read and the models are loaded: until then nobody
    would know of a process that is lost.
    """
    import torch.distributed

    rank = int(os.environ.get("RANK", "0"))
    holds_store = is_main_process() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    launch = [os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")]
    prefix = "/".join(["keeltune", *launch, str(next(_sessions))])
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        group = None
        if not torch.distributed.is_initialized():
            group, *_ = next(torch.distributed.rendezvous("env://", timeout=timedelta(seconds=JOINING)))
        heartbeat = Heartbeat(rank, world_size(), store_connection(JOINING), prefix)
        heartbeat.meet()
        watch = RankWatch(heartbeat, holds_store, PATIENCE)
        watch.start()
        if group is not None:
            torch.distributed.init_process_group(
                "nccl" if cuda else "gloo", store=group, rank=rank, world_size=world_size(), timeout=FOREVER
            )
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        text = f"not all {world_size()} processes were there within {JOINING:.0f} seconds ({reason}); start them again"
        raise Stopped(text) from error
    return watch
