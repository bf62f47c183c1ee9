"""virtomate, but with one transfer at a time: what several at once are measured against."""

from virtomate.__main__ import main
from virtomate.services import clone, transaction


def one_turn(transfers: int) -> transaction.Turns:
    """One transfer at a time, however many it should be."""
    assert transfers > 1
    return transaction.Turns(1)


if __name__ == "__main__":
    vars(clone)["Turns"] = one_turn
    main()
