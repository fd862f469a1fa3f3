"""A worker makes its calls on uvloop, which takes CPU off each; where there is none, on asyncio's loop."""

import asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop for a thread of its own."""
    try:
        import uvloop
    except ImportError:  # no wheel for this system
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
