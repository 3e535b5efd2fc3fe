"""What the work of a run shares."""

from __future__ import annotations

import asyncio

from quantlab_dagster.work.shares import Shares


def test_shares_admit_what_fits_and_never_starve_what_does_not() -> None:
    held: list[int] = []

    async def use(shares: Shares, size: int) -> None:
        async with shares.taken(size):
            held.append(size)
            assert sum(held) <= max(shares.capacity, size)
            await asyncio.sleep(0.001)
            held.remove(size)

    async def main() -> None:
        shares = Shares(100)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            for size in (60, 60, 30, 100, 500, 1, 0, 99):
                group.create_task(use(shares, size))

    asyncio.run(main())


def test_who_comes_first_is_served_first() -> None:
    """A large one once waited until no small one came any more."""
    served: list[str] = []

    async def use(shares: Shares, name: str, amount: int) -> None:
        async with shares.taken(amount):
            served.append(name)
            await asyncio.sleep(0.001)

    async def main() -> None:
        shares = Shares(10)
        async with asyncio.TaskGroup() as group:
            for name, amount in [("first", 6), ("large", 8), *((f"small {number}", 4) for number in range(5))]:
                group.create_task(use(shares, name, amount))
                await asyncio.sleep(0)

    asyncio.run(main())
    assert served[:2] == ["first", "large"]
    assert len(served) == 7
