from __future__ import annotations

import pickle

from lr_env import UserError
from lr_env.env.episodes import ArgumentError
from lr_env.errors import unknown


def test_an_error_is_one_line_whatever_it_quotes():
    error = UserError("the file holds a\nb\r\n \x1b[31mred\u2028c\x00, ± Größe")
    assert str(error) == "the file holds a b [31mred c , ± Größe"
    for kind in (UserError, ArgumentError):
        assert str(pickle.loads(pickle.dumps(kind("once more")))) == "once more"


def test_the_nearest_name_is_told_and_values_of_any_kind_are_names():
    assert "did you mean 'cosine'" in str(unknown("planner", "cosin", ["cosine", "wsd"]))
    assert str(unknown("planner", None, ["wsd"])) == "unknown planner None (there are: wsd)"
