"""Our errors that LangChain has a class for are raised as both."""

from __future__ import annotations

from langchain_core import exceptions as langchain_errors

from .. import errors

__all__ = ["as_langchain_error"]

_PAIRS = (
    (errors.ContextOverflowError, "ContextOverflowError"),
    (errors.DeadlineExceededError, "ModelTimeoutError"),
    (errors.ModelNotFoundError, "ModelNotFoundError"),
    (errors.RequestError, "ModelInvalidRequestError"),
)


def _twins() -> dict[type[errors.SLMAdaptersError], type[errors.SLMAdaptersError]]:
    # Older langchain-core has only some of the classes.
    found: dict[type[errors.SLMAdaptersError], type[errors.SLMAdaptersError]] = {}
    for ours, name in _PAIRS:
        theirs = getattr(langchain_errors, name, None)
        if theirs is not None:
            twin = type(ours.__name__, (ours, theirs), {"__doc__": ours.__doc__})
            twin.__module__ = ours.__module__
            found[ours] = twin
    return found


_TWINS = _twins()


def as_langchain_error(error: errors.SLMAdaptersError) -> errors.SLMAdaptersError:
    """The same error, caught by ``except`` clauses for LangChain's class as well."""
    twin = next((_TWINS[kind] for kind in type(error).__mro__ if kind in _TWINS), None)
    if twin is None or isinstance(error, twin):
        return error
    if type(error) not in _TWINS:
        # A subclass of its own keeps its name and data.
        twin = type(
            type(error).__name__, (type(error), twin), {"__module__": type(error).__module__}
        )
    # Not by calling it: constructors differ, and this error is complete already.
    new = OSError.__new__ if issubclass(twin, OSError) else Exception.__new__
    raised: errors.SLMAdaptersError = new(twin, *error.args)
    raised.args = error.args
    raised.__dict__.update(error.__dict__)
    raised.__traceback__, raised.__cause__ = error.__traceback__, error.__cause__
    raised.__suppress_context__ = True
    return raised
