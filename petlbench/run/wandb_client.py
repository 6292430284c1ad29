"""The connection to W&B: whether its server answers, in which time, and how quiet it is."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from ssl import SSLError
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import urlopen

from petlbench.errors import UserError

SERVER = "https://api.wandb.ai"
REACH_S = 3  # until the first answer of the server, with name resolution
INIT_S = 10  # until a run is open on the server
ANSWER_S = 15  # until the server answers the first question of a command
FINISH_S = 60  # to send the rest of a run; wandb itself would try for days
T = TypeVar("T")


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Whatever goes wrong in W&B, as a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"wandb: {line(error)}; see WANDB_BASE_URL and WANDB_API_KEY (`wandb login`)"
        ) from error


def connected() -> tuple[Any, str]:
    """W&B's interface to a server that answers, and the user's default entity."""
    import wandb

    reach()
    wandb.setup(settings=quiet())

    def ask() -> tuple[Any, str]:
        api = wandb.Api(timeout=FINISH_S)
        return api, str(api.default_entity)

    return within(ANSWER_S, ask)


def reach() -> None:
    """Check that the server answers, through the proxy if there is one; raises ConnectionError.

    wandb-core itself waits for minutes if a server accepts a connection and does not answer.
    """
    url = os.environ.get("WANDB_BASE_URL") or SERVER
    try:
        within(REACH_S, lambda: urlopen(f"{url.rstrip('/')}/healthz", timeout=REACH_S).close())
    except HTTPError:
        return  # an HTTP error is an answer
    except Exception as error:
        if not isinstance(getattr(error, "reason", None), SSLError):  # it has its own CAs
            raise ConnectionError(f"no answer from {url} ({line(error)})") from error


def quiet() -> Any:
    """Settings of wandb with which it prints nothing and sends nothing of the machine."""
    import wandb

    # console: W&B would otherwise wrap stdout and stderr; x_disable_meta: it would send the
    # command line, the folder it ran in and the name of the machine
    return wandb.Settings(
        quiet=True, silent=True, console="off", init_timeout=INIT_S, x_disable_meta=True
    )


def within(seconds: float, action: Callable[[], T]) -> T:
    """The result of an action that may block forever, such as name resolution.

    Raises TimeoutError.
    """
    outcome: queue.Queue[tuple[T, None] | tuple[None, Exception]] = queue.Queue()

    def act() -> None:
        try:
            outcome.put((action(), None))
        except Exception as error:
            outcome.put((None, error))

    # daemon: a thread that still blocks does not keep the process alive
    threading.Thread(target=act, daemon=True).start()
    try:
        result, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # a T where there is no error


def line(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
