# What bench/peers/fastapi_*.py uses: a check finds the same with the bench extra and without it.
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])

class Response:
    def __init__(self, content: bytes = ..., status_code: int = ..., *, media_type: str | None = ...) -> None: ...

class FastAPI:
    def __init__(
        self,
        *,
        openapi_url: str | None = ...,
        lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = ...,
    ) -> None: ...
    def get(self, path: str, *, response_model: None = ...) -> Callable[[_Endpoint], _Endpoint]: ...

def Query(*, alias: str) -> Any: ...
