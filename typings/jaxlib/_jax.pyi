# The compiled part of jaxlib has no stubs; without this, every function of JAX that takes a
# device has a partially unknown type, which pyright's strict mode refuses.
from typing import Any

class Device: ...

def __getattr__(name: str) -> Any: ...
