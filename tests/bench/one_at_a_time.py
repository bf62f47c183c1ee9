"""virtomate, but with one transfer at a time: what several at once are measured against."""

from virtomate.__main__ import main
from virtomate.services import transaction

if __name__ == "__main__":
    assert transaction._MAX_TRANSFERS > 1
    transaction._MAX_TRANSFERS = 1
    main()
