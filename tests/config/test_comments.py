"""What a yaml says of its settings, however its lists are written."""

import pytest
import yaml

from restore.config.comments import settings

PARTS = [{"name": "a", "sizes": [1, 2]}, {"name": "b c", "sizes": []}]


@pytest.mark.parametrize("after", ["", "last: 2 # of all\n"])
def test_lists_over_several_lines(after):
    """A list of mappings, at the end of the file and before another setting."""
    text = f"first: 1 # of all\nparts: # what there is\n{yaml.safe_dump(PARTS)}{after}"
    by_key = {setting.key: setting for setting in settings(text)}
    assert yaml.safe_load(by_key["parts"].default) == PARTS
    assert "\n" not in by_key["parts"].default
    assert by_key["parts"].comment == "what there is"
    assert [*by_key] == ["first", "parts", *(["last"] if after else [])]
    if after:
        assert by_key["last"] == ("last", "2", "of all")


def test_lists_in_one_line_are_shown_as_written():
    (setting,) = settings("sides: [1,  2] # of it\n")
    assert setting == ("sides", "[1,  2]", "of it")
