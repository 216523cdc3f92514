"""`python -m tests.crash` from the repository's root: `kill -9` at random steps, and nothing is lost; `nox -s crash` runs it.

Sixteen sessions, half over HTTP and half over WebSocket, play episodes while the server is killed and started again,
first over a SQLite file, then two servers over one PostgreSQL. Every observation is compared with a plain
environment's; at the end the server is started once more by its documented command, and every episode of every
session is graded: a session that did not go on, an observation that differs or an episode that is not `verified` is a
failure.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from random import Random

from tests.crash.players import HttpPlayer, LostError, Player, Score, SocketPlayer
from tests.crash.postgres import PostgresUnavailableError, postgres
from tests.crash.servers import Servers, servers

import local_server


def main() -> int:
    """Run the rounds that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="kills in each round (default: 50)")
    parser.add_argument("--sessions", type=int, default=16, help="concurrent sessions (default: 16)")
    parser.add_argument(
        "--spread", type=int, default=300, help="at most so many steps between two kills (default: 300)"
    )
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(2**32), help="seed of everything (default: drawn)"
    )
    parser.add_argument("--store", choices=("sqlite", "postgres"), action="append", help="one round only")
    parser.add_argument("--postgres", metavar="URL", help="a PostgreSQL to use (default: one of its own)")
    options = parser.parse_args()
    failed = False
    for store in options.store or ("sqlite", "postgres"):
        print(f"{store}: seed {options.seed}", flush=True)
        with tempfile.TemporaryDirectory(prefix="llmserve-crash-") as name, ExitStack() as stack:
            folder = Path(name)
            try:
                url = f"sqlite:///{folder / 'episodes.db'}"
                if store == "postgres":
                    url = options.postgres or stack.enter_context(postgres())
            except PostgresUnavailableError as reason:
                print(f"postgres: SKIPPED: {reason}")
                continue
            try:
                _round(store, url, folder, options)
            except (LostError, TimeoutError, RuntimeError) as error:
                failed = True
                print(f"{store}: FAILED: {type(error).__name__} {error}")
                log = folder / "servers.log"
                print(log.read_text(errors="replace")[-4000:] if log.exists() else "")
    return int(failed)


def _round(store: str, url: str, folder: Path, options: argparse.Namespace) -> None:
    settings = {
        "LLMSERVE_STORE_URL": url,
        "LLMSERVE_WEB": "false",
        "LLMSERVE_LOG_LEVEL": "warning",
        "LLMSERVE_MAX_CONCURRENT_ENVS": str(4 * options.sessions),
    }
    rng = Random(options.seed)
    score = Score()
    start = time.perf_counter()
    with servers(1 if store == "sqlite" else 2, settings, folder / "servers.log") as some:
        players: list[Player] = [
            (SocketPlayer if number % 2 else HttpPlayer)(number, Random(rng.random()), some.urls, score)
            for number in range(options.sessions)
        ]
        asyncio.run(_kill_and_play(some, players, score, rng, options))
    with local_server.running(folder, env=settings) as last:
        asyncio.run(_check(players, last.url, score))
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(score.counts.items()))
    print(
        f"{store}: nothing lost in {options.kills} kills under {options.sessions} sessions: {counts}; "
        f"{time.perf_counter() - start:.0f} s",
        flush=True,
    )


async def _kill_and_play(
    some: Servers, players: list[Player], score: Score, rng: Random, options: argparse.Namespace
) -> None:
    for which in range(len(some)):
        some.start(which)
    for which in range(len(some)):
        await some.answers(which)
    over = asyncio.Event()
    async with AsyncExitStack() as stack:
        for player in players:
            stack.push_async_callback(player.close)
        try:
            async with asyncio.TaskGroup() as group:
                for player in players:
                    group.create_task(player.play(over))
                group.create_task(_kill(some, score, rng, options, over))
        except* (LostError, TimeoutError) as errors:
            raise errors.exceptions[0] from None


async def _kill(some: Servers, score: Score, rng: Random, options: argparse.Namespace, over: asyncio.Event) -> None:
    for done in range(1, options.kills + 1):
        await score.steps(rng.randint(1, options.spread))
        await asyncio.sleep(rng.uniform(0, 0.02))
        victims = list(range(len(some))) if rng.random() < 0.1 else [rng.randrange(len(some))]
        for which in victims:
            some.kill(which)
            some.start(which)
        for which in victims:
            await some.answers(which)
        if done % 10 == 0:
            print(f"  {done} kills, {score.counts['steps']:,} steps", flush=True)
    over.set()


async def _check(players: list[Player], url: str, score: Score) -> None:
    for player in players:
        checker = HttpPlayer(player.number, player.rng, [url], score)
        checker.session_id, checker.finished = player.session_id, player.finished
        await checker.check()
        await checker.close()


if __name__ == "__main__":
    sys.exit(main())
