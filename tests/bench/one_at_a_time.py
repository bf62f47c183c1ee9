"""virtomate, but with one transfer at a time: what several at once are measured against."""

from virtomate.__main__ import main
from virtomate.services.clone import run as clone
from virtomate.services.transaction import limits as filling


def one_turn(transfers: int) -> filling.RunLimits:
    """One transfer at a time, however many it should be."""
    assert transfers > 1
    return filling.RunLimits(1)


if __name__ == "__main__":
    vars(clone)["RunLimits"] = one_turn
    main()
