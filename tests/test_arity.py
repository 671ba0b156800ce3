"""Functions that cannot be called as the pool calls them are refused where they are passed."""

import functools
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import pytest

from aiowebsocketclient import WebSocketClientSession, check_ping
from aiowebsocketclient.arity import check_arity, name_of

from .conftest import SessionFactory
from .servers import Server


async def hook(ws: Any) -> None: ...


async def without(secret: str = "s3cret", *, token: str) -> None: ...


async def none() -> None: ...


async def two(ws: Any, token: str) -> None: ...


def make_hook() -> Any: ...


def makes_a_hook(seconds: float = 5.0) -> Any:
    async def hook(ws: Any) -> None: ...

    return hook


class Checker:
    def __init__(self) -> None: ...

    async def check(self, ws: Any) -> None: ...

    async def nothing(self) -> None: ...

    @staticmethod
    async def static(ws: Any) -> None: ...

    @classmethod
    async def of_class(cls, ws: Any) -> None: ...

    async def __call__(self, ws: Any) -> None: ...


class Static:
    @staticmethod
    async def __call__(ws: Any) -> None: ...


class Made:
    def __new__(cls, ws: Any) -> Any: ...


class Started:
    def __init__(self, ws: Any) -> None: ...


class Nothing:
    async def __call__(self) -> None: ...


def with_token(function: Any) -> Any:
    @functools.wraps(function)
    async def call(ws: Any) -> None: ...

    return call


def with_anything(function: Any) -> Any:
    @functools.wraps(function)
    async def call(*args: Any, **options: Any) -> None: ...

    return call


def lying(ws: Any) -> None: ...


lying.__signature__ = "none"  # type: ignore[attr-defined]


class Meta(type):
    def __call__(cls, ws: Any) -> Any: ...


class OfMeta(metaclass=Meta):
    def __init__(self) -> None: ...


GOOD = [
    hook,
    lambda ws, more=1: None,
    lambda *args: None,
    lambda ws, *, more=1: None,
    lambda ws, **more: None,
    with_token(two),
    with_anything(two),
    lying,
    Checker().check,
    Checker.static,
    Checker().static,
    Checker.of_class,
    Checker(),
    Static(),
    Made,
    Started,
    OfMeta,
    functools.partial(two, token=""),
    functools.partial(two, None),
    functools.partial(functools.partial(two), token=""),
    functools.partial(Checker().check),
    functools.partial(Checker.check, Checker()),
    functools.lru_cache(hook),
    check_ping(),
    Mock(),
    MagicMock(),
    AsyncMock(),
    Mock(spec=none),
    Mock(spec=type),
    create_autospec(hook),
    print,
    dict,
    list[int],
    "".join,
    str.upper,
]


def named(thing: Any) -> str:
    return thing[:20] if isinstance(thing, str) else name_of(thing)


@pytest.mark.parametrize("function", GOOD, ids=named)
def test_what_may_fit_is_accepted(function: Any) -> None:
    check_arity("check", function, "the connection")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (none, "none is not: too many"),
        (two, "two is not: missing a required argument: 'token'"),
        (without, "without is not: missing a required (keyword-only )?argument: 'token'"),
        (make_hook, r"make_hook is not: .* pass make_hook\(\.\.\.\), with parentheses"),
        (Checker, r"Checker is not: too many .* object of the class, such as Checker\(\)"),
        (Checker.check, "'ws'. Pass the method of an object, not Checker.check"),
        (Checker().nothing, "Checker.nothing is not: too many"),
        (Nothing(), "Nothing is not: too many"),
        (object, "object is not"),
        (functools.partial(two, 1, 2), "partial is not: too many"),
        (functools.partial(hook, ws=1), "multiple values for argument 'ws'"),
        (functools.partial(hook, x=1), "unexpected keyword argument 'x'"),
        (check_ping, r"^check must be what check_ping\(\) returns, .* with parentheses$"),
        (functools.partial(check_ping, timeout=2), r"pass check_ping\(\), with parentheses"),
    ],
    ids=named,
)
def test_what_cannot_fit_is_refused(function: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said) as caught:
        check_arity("check", function, "the connection")
    assert str(caught.value).startswith("check must be ")
    assert "s3cret" not in str(caught.value)


class Endless:
    pass


Endless.__call__ = staticmethod(Endless())  # type: ignore[attr-defined]


def test_what_has_no_end_is_accepted() -> None:
    check_arity("check", Endless(), "the connection")


PARAMETERS = ["", "a", "a=0", "a, /", "a=0, /", "a, b", "a, b=0", "a, /, b", "a=0, b=0, /", "*x"]
FURTHER = ["", "k", "k=0", "**y", "k, **y"]
GIVEN: list[tuple[tuple[int, ...], dict[str, int]]] = [
    (args, dict.fromkeys(names, 0))
    for args in ((), (0,))
    for names in ((), ("a",), ("b",), ("k",), ("b", "k"), ("z",))
]


@pytest.mark.parametrize("first", PARAMETERS)
@pytest.mark.parametrize("further", FURTHER)
@pytest.mark.parametrize("count", [1, 2])
def test_it_says_what_a_call_says(first: str, further: str, count: int) -> None:
    star = "*" if further[:1] == "k" and "*" not in first else ""
    parameters = ", ".join(part for part in (first, star, further) if part)
    function = eval(f"lambda {parameters}: None")
    for args, options in GIVEN:
        called = functools.partial(function, *args, **options) if args or options else function
        fits = _does_not_raise(lambda called=called: called(*range(count)))
        accepted = _does_not_raise(
            lambda called=called: check_arity("x", called, *["an argument"] * count)
        )
        assert fits is accepted, (parameters, args, options)


def _does_not_raise(call: Callable[[], object]) -> bool:
    try:
        call()
    except TypeError:
        return False
    return True


# -- where they are passed -----------------------------------------------------------------------

HOOKS: dict[str, Any] = {
    **dict.fromkeys(("configure", "check", "reset", "on_idle_message"), make_hook),
    "keepalive": (5.0, make_hook),
}


@pytest.mark.parametrize("name", HOOKS)
async def test_each_call_refuses_a_hook_that_cannot_be_called(
    server: Server, make_session: SessionFactory, name: str
) -> None:
    session = make_session()
    balanced = session.balanced([server.url()])
    given = {name: HOOKS[name]}
    said = rf"{name} must be callable with one argument .*make_hook\(\.\.\.\), with parentheses"
    with pytest.raises(TypeError, match=said):
        WebSocketClientSession(**given)
    with pytest.raises(TypeError, match=said):
        session.ws_connect(server.url(), **given)
    with pytest.raises(TypeError, match=said):
        balanced.ws_connect(**given)
    with pytest.raises(TypeError, match=said):
        session.set_min_idle(server.url(), 1, **given)
    with pytest.raises(TypeError, match=said):
        await session.prewarm(server.url(), 1, **given)
    assert not session.stats().connecting


async def test_progress_with_another_number_of_arguments(
    server: Server, make_session: SessionFactory
) -> None:
    session = make_session()
    with pytest.raises(TypeError, match="progress must be callable with 2 arguments"):
        await session.prewarm(server.url(), 1, progress=lambda opened: None)  # type: ignore[misc, arg-type]
    assert not session.stats().connects


async def test_a_function_that_returns_the_hook(
    server: Server, make_session: SessionFactory
) -> None:
    """It can be called with the connection, as it seems; the first call shows what it is."""
    session = make_session(configure=makes_a_hook)
    with pytest.raises(TypeError, match=r"pass makes_a_hook\(\.\.\.\), with parentheses"):
        await session.ws_connect(server.url())
