"""`Kernel`: which engine the simulator runs on, from the server's start until the compiled kernel is loaded.

Compiling takes from half a minute to a few minutes on a new machine, longer than clients wait for a step. Until then
episodes run on the kernel in plain Python, which gives the same bytes. Another process compiles into numba's cache, at
a low priority, because numba would compete with the steps for this process's GIL; this process then loads the result.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Final

import structlog

from llmserve_sim.engine.kernel import compiled
from llmserve_sim.env import EngineKind, ServingEnv
from llmserve_sim.schema import ServeAction

__all__ = ["Kernel"]

_log = structlog.get_logger(__name__)
_COMPILE: Final = (
    "import os, sys; sys.path[:] = sys.argv[1:]\n"
    "getattr(os, 'nice', lambda _: None)(10)\n"
    "from llmserve_sim.engine.kernel import compiled; compiled.load()"
)


class Kernel:
    """The engine of a server's episodes.

    Args:
        engine: the setting. Only "auto" begins in plain Python; the others are used from the first step on, and with
            "numba" the first steps wait until the kernel is compiled.
    """

    def __init__(self, engine: EngineKind = "auto") -> None:
        self._engine: EngineKind = engine
        self._begins_in_python = engine == "auto" and compiled.available()
        self._is_loaded = False
        self._guard = threading.Lock()
        """Guards the three below; held only briefly."""
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False

    @property
    def engine(self) -> EngineKind:
        """The engine of a window that begins now."""
        return "python" if self._begins_in_python and not self._is_loaded else self._engine

    @property
    def is_fast(self) -> bool:
        """Whether windows run on the compiled kernel, in a fraction of a millisecond."""
        return self._is_loaded

    async def warmed_up(self) -> None:
        """Load the compiled kernel, compiling it first if need be; return when that is done or has failed."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def wait() -> None:
            self.settled()
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(done.set)

        # A daemon thread, so that a stopping process does not wait for a compiler.
        threading.Thread(target=wait, name="llmserve-kernel-wait", daemon=True).start()
        await done.wait()

    def settled(self) -> EngineKind:
        """Do what `warmed_up` does in a thread, wait for it, and return the engine of all later windows."""
        with self._guard:
            if self._thread is None:
                self._thread = threading.Thread(target=self._warm_up, name="llmserve-kernel", daemon=True)
                self._thread.start()
        self._thread.join()
        return self.engine

    def close(self) -> None:
        """Stop compiling."""
        with self._guard:
            self._closed = True
            if self._child is not None:
                self._child.kill()

    def _warm_up(self) -> None:
        if self._engine not in {"auto", "numba"} or not compiled.available():
            return
        try:
            if self._engine == "auto" and not compiled.is_loaded() and not compiled.is_cached():
                self._compile_elsewhere()
            if not self._closed:
                compiled.load()
                self._is_loaded = True
                _rehearse(self._engine)
                _log.info("kernel_loaded")
        except Exception as error:  # noqa: BLE001 - the server serves without it
            _log.error("kernel_failed", note="episodes run in plain Python, more slowly", exc_info=error)

    def _compile_elsewhere(self) -> None:
        """Fill numba's cache from another process, and wait for it. If that fails, this process compiles."""
        if not compiled.can_cache():
            _log.warning("kernel_not_cached", note="every process compiles it again: set NUMBA_CACHE_DIR")
            return
        _log.info("kernel_compiling", note="half a minute to a few, once on a machine; steps run in plain Python")
        command = [sys.executable, "-c", _COMPILE, *sys.path]
        with self._guard:
            if self._closed:
                return
            self._child = child = subprocess.Popen(  # noqa: S603 - this interpreter, with our own code
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        said = child.communicate()[1]
        if child.returncode and not self._closed:
            reason = said.decode(errors="replace").strip().rpartition("\n")[2]
            _log.warning("kernel_compiler_failed", code=child.returncode, reason=reason, note="this process compiles")


def _rehearse(engine: EngineKind) -> None:
    """Run one window, so that whatever else is made on its first use is there."""
    env = ServingEnv("static_workload", engine=engine)
    env.reset(0)
    env.step(ServeAction())
