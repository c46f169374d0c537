"""Whatever goes wrong between here and the Hub becomes one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from framefold.errors import FramefoldError, HubError
from framefold.messages import one_line

TIMEOUT = 60  # seconds without a byte; the client of huggingface_hub would wait for ever

CACHED_ANYWAY = (408, 429, 500, 502, 503, 504)  # answers of a Hub that may be well again later


@contextmanager
def asking_hub(repository: str, revision: str | None = None, doing: str = "load") -> Iterator[None]:
    """Talk to the Hub about a repository, with an end to all waiting.

    Args:
        doing: "load" or "push", for the message.

    Raises:
        HubError: anything went wrong.
    """
    from huggingface_hub.utils import get_session

    session: Any = get_session()  # shared with others in this process
    before = session.timeout
    session.timeout = TIMEOUT
    try:
        yield
    except FramefoldError:
        raise
    except Exception as error:  # a network brings what it likes
        raise HubError(explain(error, repository, revision, doing)) from error
    finally:
        session.timeout = before


def is_unreachable(error: Exception) -> bool:
    """Whether there was no answer, or one that says nothing about the repository, so that a cached copy may do."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled) or _is_of_connection(error) or _status(error) in CACHED_ANYWAY


def explain(error: Exception, repository: str, revision: str | None, doing: str) -> str:
    """One line on what went wrong and what to do about it."""
    from huggingface_hub import constants, errors

    error = _informative(error)
    hub, status = constants.ENDPOINT, _status(error)
    at = f"{repository}@{revision}" if revision else repository
    login = "log in with 'hf auth login' or set HF_TOKEN"
    if isinstance(error, errors.HFValidationError):
        return f"{repository!r} is no name of a repository on the Hub: {one_line(error)}"
    if isinstance(error, errors.GatedRepoError):
        return f"{at} is gated: ask for access at {hub}/{repository}, then {login}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision!r}: {hub}/{repository}/refs lists its branches and tags"
    if isinstance(error, errors.RepositoryNotFoundError) and doing == "load":
        return f"there is no {repository} at {hub}, or it is private: look at its name, or {login}"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return f"{at} is not in the cache as a whole, and there is no connection to {hub}: load it once online"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{at} lacks a file that it listed: {one_line(error)}"
    if status == 401 or isinstance(error, errors.LocalTokenNotFoundError | errors.RepositoryNotFoundError):
        return f"{hub} does not know you, or {repository} is not yours: {login}, with a token that may write there"
    if status == 403:
        return f"your token may not {doing} {repository}: make one that may at {hub}/settings/tokens, then {login}"
    if status in (409, 412):
        return f"{repository} was changed by somebody else meanwhile: do it again"
    if status == 413:
        return f"{hub} takes no files of that size: {one_line(error)}"
    if status is not None and (status >= 500 or status in CACHED_ANYWAY):
        return f"{hub} is busy or out of order (status {status}): try again later; {_nothing(doing)}"
    if _is_of_connection(error) or "Consistency check" in str(error):
        return f"the connection to {hub} broke off ({type(error).__name__}): do it again; {_nothing(doing)}"
    return f"{doing}ing {at} failed: {type(error).__name__}: {one_line(error)}"


def _nothing(doing: str) -> str:
    return "nothing was published" if doing == "push" else "nothing half-loaded is kept"


def _informative(error: Exception) -> Any:
    """What went wrong in an upload: the client wraps it in RuntimeErrors that say nothing of it."""
    seen: Any = error
    while type(seen) is RuntimeError and seen.__cause__ is not None:
        seen = seen.__cause__
    return seen


def _is_of_connection(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2")


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
