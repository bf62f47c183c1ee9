"""virtomate, but with one transfer at a time: what several at once are measured against."""

from concurrent.futures import ThreadPoolExecutor

from virtomate.__main__ import main
from virtomate.services.clone import run as clone


def one_at_a_time(size: int, name: str) -> ThreadPoolExecutor:
    """Fill one volume at a time, however many it should be."""
    return ThreadPoolExecutor(1 if name == "transfer-" else size, name)


if __name__ == "__main__":
    vars(clone)["ThreadPoolExecutor"] = one_at_a_time
    main()
