"""Nothing that a user could type is lost."""

from pathlib import Path

from tests.house.inventory import commands

STORED = Path(__file__).parent / "data" / "commands.txt"


def test_every_command_and_option_is_still_accepted() -> None:
    lost = set(STORED.read_text().splitlines()) - set(commands())
    assert not lost, "keep the old spelling for a release; new ones: python -m tests.house.inventory"
